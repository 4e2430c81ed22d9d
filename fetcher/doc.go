// Package fetcher owns the words for what is fetched (Repo, Ref, Revision,
// Manifest, Digest, Filter), the two interfaces of the outside world (Source,
// which gives bytes, and Authority, which says what a Ref and a Revision are),
// and the engine that brings the Pieces of missing files from a chain of Sources to a Sink.
//
// It must never know about disks or pods: where bytes go is the Sink's business,
// who may ask for them is the agent's.
//
// Invariants:
//   - Every type parsed from outside text (Repo, Ref, Commit, Digest, Path,
//     Filter) has unexported fields: a value that exists has been checked, or is
//     the zero value, which names nothing.
//   - A Source is never trusted: the engine hands a file on only after the Sink
//     has verified it against its Digest. What a Source did before changes when it is
//     asked, never whether: none is left out.
//   - Whether an error is permanent or transient is decided where it is born;
//     Transient reads that decision.
package fetcher
