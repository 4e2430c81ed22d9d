// Package store is the only code that touches the cache directory. It owns
// Ingests, Blobs, Manifests, the record of each Repo, Views and Pins, and it is
// the only one that can make a Blob or a View exist.
//
// It must never know about HTTP or Kubernetes, nor who may have what: it records
// through which Origins a Blob's bytes came and leaves the decision to the agent. An
// Origin is a Repo with the id that the Hub knows it by, or as a local Authority knows it.
// Whatever is recorded of a Repo is recorded of an Origin, so that what one Authority said
// never counts as another's, and whoever registers a name anew inherits nothing: once
// another id is on record (Identify, one write) nothing of the old one is found under that
// name.
//
// On disk (layout version 1):
//
//	version                       "1\n"; another one is refused
//	lock                          flock: one agent only
//	blobs/<algo>/<aa>/<hex>       verified bytes, 0444
//	sums/<algo>/<aa>/<hex>        xxhash64 a Piece, 8 bytes little endian each (none for a file of one Piece)
//	ingests/<algo>-<hex>-<hash>/  data + journal; hash is of an Origin: bytes are never shared between them on their way in
//	ingests/<algo>-<hex>-<hash>   the data itself, of a file of one Piece: no journal
//	manifests/<kind>/<org--name>/<commit>.json   with the id of the Origin that listed it ("<org--name>+<authority>" if a local one did)
//	refs/<kind>/<org--name>.json  the Repo's id; each Ref's last commit, when and by which Authority; when it was proved public
//	refs/<kind>/<org--name>+<authority>.json   a local Authority's Refs; what it listed at each commit, and how that compares with the Hub
//	origins/<kind>/<org--name>@<id>   the Digests whose bytes came through the Origin, one a line, append-only ("@<id>" only if it has one; "+<authority>" in its place for a local one)
//	views/<id>/view.json          what the View is
//	views/<id>/root/              hard links into blobs: what is mounted
//	views/<id>.partial/           the same on its way in, or out
//	views/<id>-suspect<n>/        what was a View, was found damaged, and may still be mounted
//	pins/<hex>.json               hex = sha256(volume id, NUL, target path)
//	empty/                        an empty directory, the second layer of a mount
//
// Anything else in the cache directory (lost+found, say) is not the store's and is left
// alone. The design's quarantine/ and trash/ come with what will fill them.
//
// Records (.json) carry the xxhash64 of what they say; one that does not match, or that
// the disk does not give back, is absent. A Pin that cannot be read is not: as it might
// be any View's, every View counts as pinned until its Volume is pinned or unpinned
// again, or the Pin is removed by its name.
//
// A Pin whose View does not exist is a fault: the store never leaves one, so CheckStore
// tells, but a disk or a person may. Open keeps it, which is safe, and it goes when its
// Volume is asked for again (PinnedView). A View that cannot show what it is, or has no
// root, is damaged since it was made. Open offers it to nobody, so that it is made again;
// if pinned, all of it stays under another name, as pods may be using it, until an Open
// finds no such Pin left.
//
// Order of writing, which is what crash safety rests on:
//   - a Blob's bytes are verified and synced, and its origin line is synced,
//     before it has a name;
//   - its directory is synced before any View links it;
//   - a View is complete and synced before the rename that makes it visible;
//   - a Pin is durable before its View's path is handed out;
//   - a View loses its name, durably, before anything in it is removed.
//
// Ingests leave some of the disk free (Config.Reserve) that records, Views and Pins may
// use: what is here can be used on a disk that is full for downloads. But a Manifest and a
// View of very many files or directories leave it too, and so does a copy of a Blob that
// has as many links as the file system allows (ext4: 65,000). A View has one for as many files again.
//
// A change that fails is undone or, where undoing fails too, the last that this process
// makes (ErrUnknownState). But for a Pin's removal: until it is made or removed again, it
// counts as one that cannot be read.
//
// Origins make rule "a tenant gets what it could have fetched itself" hold across
// Repos: a line says that these bytes really came through that Origin, a fact that
// stays true, so it is only ever appended, and a line without a Blob is harmless.
package store
