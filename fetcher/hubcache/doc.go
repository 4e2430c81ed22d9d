// Package hubcache owns reading a Hugging Face cache directory that somebody else
// writes: a shared PVC, mounted read-only. It gives its files as a Source, and says what
// its refs and snapshots are as an Authority. Whether it is used as one is the
// operator's word, and not known here.
//
// It must never know where bytes go, who asks for them, or what the Hub says.
//
// The layout is huggingface_hub's (docs/hub/local-cache.md of hub-docs). In
// <dir>, or <dir>/hub if that is an HF_HOME:
//
//	{models|datasets}--org--name/
//	  blobs/<etag>                 content; 64 hex: its SHA-256, 40 hex: its git object name
//	  refs/<ref>                   a commit in 40 hex
//	  snapshots/<commit>/<path>    a link to ../../blobs/<etag>, or the file itself
//	  trees/<commit>.json          what the commit has (huggingface_hub >= 1.22)
//
// Invariants:
//   - Nothing is written, and nothing is opened but beneath the folder of the Repo that
//     was asked for: no link leads out of it, not to another Repo's folder either, for a
//     Digest that a Repo claims proves nothing about another Repo.
//   - Only regular files are read.
//   - What is not there, or not whole, is absent. What does not answer is unreachable.
//     Neither is a verdict on the Repo.
//   - A file system may hang (a dead NFS server): each call of it is made by a goroutine
//     that its caller can leave, with memory of its own, and there are no more than
//     maxCalls of them. Copying inside the kernel is the exception, and done only where
//     a file system is not known to hang.
package hubcache
