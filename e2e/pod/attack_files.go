package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// onFile is an attempt that makes nothing writable.
type onFile struct {
	name string
	try  func(t target) error
}

func attemptsOn(files []onFile) (all []attempt) {
	for _, f := range files {
		all = append(all, attempt{f.name, func(t target) (string, error) { return "", f.try(t) }})
	}
	return all
}

// fileAttempts go through the volume where it is mounted.
func fileAttempts() []attempt {
	return attemptsOn([]onFile{
		{"open O_WRONLY", opened(unix.O_WRONLY)},
		{"open O_RDWR", opened(unix.O_RDWR)},
		{"open O_APPEND", opened(unix.O_WRONLY | unix.O_APPEND)},
		{"open O_TRUNC", opened(unix.O_WRONLY | unix.O_TRUNC)},
		{"open O_DIRECT", direct},
		{"reopen /proc/self/fd", reopened},
		{"open_by_handle_at", byHandle},
		{"mmap PROT_WRITE", mapped},
		{"mprotect PROT_WRITE", protected},
		{"truncate", func(t target) error { return unix.Truncate(t.file(), 0) }},
		{"fallocate", allocated},
		{"fallocate PUNCH_HOLE", punched},
		{"chmod", func(t target) error { return unix.Chmod(t.file(), 0o757) }},
		{"chmod set-uid", func(t target) error { return unix.Chmod(t.file(), 0o4755) }},
		{"chmod of the volume", func(t target) error { return unix.Chmod(t.dir, 0o757) }},
		{"chown of the volume", func(t target) error { return unix.Lchown(t.dir, 1, 1) }},
		{"chown", func(t target) error { return unix.Lchown(t.file(), 1, 1) }},
		{"utimes", func(t target) error { return unix.Utimes(t.file(), []unix.Timeval{{Sec: 1}, {Sec: 1}}) }},
		{"setxattr user", func(t target) error { return unix.Lsetxattr(t.file(), "user.attack", []byte("1"), 0) }},
		{"setxattr trusted", func(t target) error { return unix.Lsetxattr(t.file(), "trusted.attack", []byte("1"), 0) }},
		{"setxattr security", func(t target) error { return unix.Lsetxattr(t.file(), "security.capability", allCapabilities, 0) }},
		{"FS_IOC_SETFLAGS", flagged},
		{"create", func(t target) error { return closed(unix.Open(t.fresh, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)) }},
		{"O_TMPFILE", temporary},
		{"mkdir", func(t target) error { return unix.Mkdir(t.fresh, 0o755) }},
		{"symlink", func(t target) error { return unix.Symlink("nowhere", t.fresh) }},
		{"link", func(t target) error { return unix.Link(t.file(), t.fresh) }},
		{"mknod of a FIFO", func(t target) error { return unix.Mknod(t.fresh, unix.S_IFIFO|0o644, 0) }},
		{"mknod of a device", func(t target) error { return unix.Mknod(t.fresh, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) }}, // null
		{"rename WHITEOUT", func(t target) error {
			return unix.Renameat2(unix.AT_FDCWD, t.file(), unix.AT_FDCWD, t.fresh, unix.RENAME_WHITEOUT)
		}},
		{"rename", func(t target) error { return unix.Rename(t.file(), t.fresh) }},
		{"unlink", func(t target) error { return unix.Unlink(t.file()) }},
	})
}

// allCapabilities is the value of security.capability that lets a program have them
// (VFS_CAP_REVISION_2, linux/capability.h).
var allCapabilities = []byte{1, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}

// scribble opens the file and changes its first byte.
func scribble(path string, flags int, first byte) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return flip(fd, first)
}

func flip(fd int, first byte) error {
	_, err := unix.Pwrite(fd, []byte{^first}, 0)
	return err
}

func closed(fd int, err error) error {
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func opened(flags int) func(t target) error {
	return func(t target) error { return scribble(t.file(), flags, t.first) }
}

// direct goes around the page cache, which takes whole blocks from aligned memory.
func direct(t target) error {
	fd, err := unix.Open(t.file(), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(block)
	block[0] = ^t.first
	_, err = unix.Pwrite(fd, block, 0)
	return err
}

// best opens the file for writing, or else as anyone may.
func best(t target) (int, error) {
	if fd, err := unix.Open(t.file(), unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		return fd, nil
	}
	return readable(t)
}

func readable(t target) (int, error) {
	fd, err := unix.Open(t.file(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open O_RDONLY: %w", err)
	}
	return fd, nil
}

func reopened(t target) error {
	fd, err := readable(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return scribble(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR, t.first)
}

// byHandle opens the file by its number, without walking to it.
func byHandle(t target) error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, t.file(), 0)
	if err != nil {
		return fmt.Errorf("name_to_handle_at: %w", err)
	}
	dir, err := unix.Open(t.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDWR|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return flip(fd, t.first)
}

func mapped(t target) error {
	fd, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	page, err := unix.Mmap(fd, 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	page[0] = ^t.first
	return unix.Munmap(page)
}

func protected(t target) error {
	fd, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	page, err := unix.Mmap(fd, 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap PROT_READ: %w", err)
	}
	defer unix.Munmap(page)
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	page[0] = ^t.first
	return nil
}

// allocated makes the file longer.
func allocated(t target) error {
	fd, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	return unix.Fallocate(fd, 0, stat.Size, 1)
}

func punched(t target) error {
	fd, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1)
}

// flagged turns "no dump" around, a flag that does no harm: chattr(1) needs no
// descriptor that can write.
func flagged(t target) error {
	fd, err := readable(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("FS_IOC_GETFLAGS: %w", err)
	}
	const noDump = 0x40 // FS_NODUMP_FL, linux/fs.h
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags^noDump)
}

func temporary(t target) error {
	fd, err := unix.Open(t.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, t.fresh, unix.AT_SYMLINK_FOLLOW)
}
