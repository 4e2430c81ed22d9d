// Package mount owns the read-only mounts of Views and what mountinfo says about
// them.
//
// It must never know about CSI or the agent: it is given a path beneath the cache
// directory and a target, and trusts neither.
//
// Invariants:
//   - A layer is opened beneath the cache directory with openat2 and mounted by its
//     descriptor, so a path that leaves the cache, by "..", a symbolic link or another
//     file system, mounts nothing, whatever its owner renames meanwhile. No attribute
//     of a file in a layer steers the overlay.
//   - A mount is complete, read-only and without set-uid or devices before it has a
//     place: it is attached by one move_mount, never changed afterwards. It may hold
//     programs: a model's own code is mapped from it, and a pod can run bytes that it
//     reads in any case.
//   - The target is a descriptor opened without following a link in its last
//     component, and an empty directory.
//   - Nothing is removed through a target but by rmdir.
//   - An overlay's source names its Volume (Source), so mountinfo alone says what is
//     mounted where; nothing else is kept.
package mount
