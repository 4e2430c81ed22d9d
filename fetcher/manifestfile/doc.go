// Package manifestfile owns the operator's manifest files: an Authority for where the Hub
// cannot be asked. They are written where it can be, by ballast manifest, and mounted.
//
// It must never know where bytes come from, nor who asks.
//
// Invariants:
//   - A file counts whole or not at all: one that is malformed, too long, or lists what no
//     Manifest may hold says nothing, is logged once, and does the others no harm.
//   - Where two files contradict each other about a Ref or a Revision neither counts for
//     it, and the error names both.
//   - The directory is looked at for each question, so what is mounted anew counts at
//     once; only files that have changed are read again.
//   - Of a file only its head is kept: one listing at a time is in memory.
//   - A directory that hangs (a dead file server) keeps nobody longer than it waits, and
//     no more than one thread.
package manifestfile
