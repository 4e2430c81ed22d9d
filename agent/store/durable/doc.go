// Package durable owns the few ways in which Ballast makes a change to a directory
// survive a power cut. It is the only caller of os.Rename, os.Link, Sync and syncfs.
//
// It must never know what the files mean.
//
// What each does, in system calls, in this order:
//
//	WriteFile  open temp in the same directory, write, fchmod, fsync, close, rename, fsync directory
//	Append     open O_APPEND, write, fsync (and fsync directory if the file is new)
//	Remove     unlink, fsync directory (also when there was nothing to unlink: an earlier
//	           unlink may not have been synced)
//	MkdirAll   for each missing level, from the top: mkdir, chmod, fsync parent
//	Batch      fsync every file (16 at a time); rename all, in order; fsync every directory
//	           concerned once (16 at a time)
//	Tree       open root; later fsync every directory (16 at a time) or, above 2,000, one syncfs
//
// Invariants:
//   - No name before its data: a rename runs only after the fsync of what it names
//     succeeded.
//   - After a failed fsync the bytes count as lost. Linux marks the pages clean, so a
//     second fsync would succeed and prove nothing (Rebello et al., "Can Applications
//     Recover from fsync Failures?", USENIX ATC 2020). WriteFile removes its
//     temporary file; Append and Batch say which file it was, and the caller must
//     write those bytes again into a new file.
//   - An error says that the change may or may not be on disk. It never leaves a
//     name that shows half of a file.
//
// It does not protect against: a disk that acknowledges a flush it did not do; rot of
// bytes at rest; a file system that does not order its metadata (ext2, vfat, most
// network file systems): ext4, XFS and btrfs do.
package durable
