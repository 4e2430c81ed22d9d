// Package store is the only code that touches the cache directory. It owns
// Ingests, Blobs, Manifests, the record of each Repo, Views and Pins, and it is
// the only one that can make a Blob or a View exist.
//
// It must never know about HTTP or Kubernetes, nor who may have what: it records
// through which Repos a Blob's bytes came (Origins) and leaves the decision to the
// agent.
//
// On disk (layout version 1):
//
//	version                       "1\n"; another one is refused
//	lock                          flock: one agent only
//	blobs/<algo>/<aa>/<hex>       verified bytes, 0444
//	sums/<algo>/<aa>/<hex>        xxhash64 a Piece, 8 bytes little endian each (none for a file of one Piece)
//	ingests/<algo>-<hex>-<repo>/  data + journal; <repo> is a hash: bytes are never shared between Repos on their way in
//	ingests/<algo>-<hex>-<repo>   the data itself, of a file of one Piece: no journal
//	manifests/<kind>/<org--name>/<commit>.json
//	refs/<kind>/<org--name>.json  each Ref's last commit, when and by which Authority; when the Repo was proved public
//	origins/<kind>/<org--name>    the Digests whose bytes came through the Repo, one a line, append-only
//	views/<id>/view.json          what the View is
//	views/<id>/root/              hard links into blobs: what is mounted
//	views/<id>.partial/           the same on its way in
//	pins/<hex>.json               hex = sha256(volume id, NUL, target path)
//	empty/                        an empty directory, the second layer of a mount
//	quarantine/  trash/
//
// Records (.json) carry the xxhash64 of what they say; one that does not match is
// absent. A Pin that cannot be read is not: as it might be any View's, every View counts
// as pinned until its Volume is pinned or unpinned again. A Pin whose View is gone is
// kept: a left-over Pin is safe, and the View made again has the same id.
//
// Order of writing, which is what crash safety rests on:
//   - a Blob's bytes are verified and synced, and its origin line is synced,
//     before it has a name;
//   - its directory is synced before any View links it;
//   - a View is complete and synced before the rename that makes it visible;
//   - a Pin is durable before its View's path is handed out.
//
// A change that fails is undone or, where undoing fails too, the last that this process
// makes (ErrUnknownState).
//
// Origins make rule "a tenant gets what it could have fetched itself" hold across
// Repos: a line says that these bytes really came through that Repo, a fact that
// stays true, so it is only ever appended, and a line without a Blob is harmless.
package store
