package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// byteAttempts put a byte into the file by another way than write(2).
func byteAttempts() []attempt {
	return attemptsOn([]onFile{
		{"splice", spliced},
		{"sendfile", sent},
		{"copy_file_range", copied},
		{"FICLONERANGE", cloneRange},
		{"io_uring WRITE", ringed},
		{"reopen /proc/self/map_files", remapped},
		{"FS_IOC_ENABLE_VERITY", sealed},
	})
}

// sent sends the file's first byte, flipped, out of another file.
func sent(t target) error {
	path := filepath.Join(t.scratch, "byte")
	if err := os.WriteFile(path, []byte{^t.first}, 0o600); err != nil {
		return err
	}
	defer os.Remove(path)
	from, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	_, err = unix.Sendfile(to, from, nil, 1)
	return err
}

// copied copies the file's second byte over the first one: in most file systems both
// must be of one mount.
func copied(t target) error {
	fd, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	from, to := int64(1), int64(0)
	_, err = unix.CopyFileRange(fd, &from, fd, &to, 1, 0)
	return err
}

func spliced(t target) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	if _, err := unix.Write(pipe[1], []byte{^t.first}); err != nil {
		return err
	}
	fd, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Splice(pipe[0], nil, fd, new(int64), 1, 0)
	return err
}

// cloneRange has the file's second block share the first one's bytes.
func cloneRange(t target) error {
	fd, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const block = 4096
	return unix.IoctlFileCloneRange(fd, &unix.FileCloneRange{Src_fd: int64(fd), Src_length: block, Dest_offset: block})
}

// remapped opens the file by the address that it is mapped at.
func remapped(t target) error {
	fd, err := readable(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	size := os.Getpagesize()
	page, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(page)
	at := uintptr(unsafe.Pointer(&page[0]))
	return scribble(fmt.Sprintf("/proc/self/map_files/%x-%x", at, at+uintptr(size)), unix.O_RDWR, t.first)
}

// sealed makes the file one whose bytes the kernel checks and nobody can change: for
// that, too, a descriptor that cannot write is enough.
func sealed(t target) error {
	fd, err := readable(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: 1, Block_size: 4096} // SHA-256
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Of <linux/io_uring.h>: the places of what is used here in struct io_uring_params, and
// in an entry of either queue.
const (
	ringParams, ringTail, ringCQEs       = 120, 44, 100
	ringEntry, ringEntries               = 64, 0x10000000 // the size of one, and where to map them
	entryFD, entryAddress, entryLength   = 4, 16, 24
	writeOpcode, waitForOne, resultInCQE = 23, 1, 8
)

// ringed writes by way of io_uring, whose kernel threads do it.
func ringed(t target) error {
	fd, err := best(t)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	params := make([]byte, ringParams)
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer unix.Close(int(ring))
	u32 := binary.NativeEndian.Uint32
	queues, err := unix.Mmap(int(ring), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the queues: %w", err)
	}
	defer unix.Munmap(queues)
	entry, err := unix.Mmap(int(ring), ringEntries, ringEntry, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the entries: %w", err)
	}
	defer unix.Munmap(entry)
	flipped := []byte{^t.first}
	entry[0] = writeOpcode
	binary.NativeEndian.PutUint32(entry[entryFD:], uint32(fd))
	binary.NativeEndian.PutUint64(entry[entryAddress:], uint64(uintptr(unsafe.Pointer(&flipped[0]))))
	binary.NativeEndian.PutUint32(entry[entryLength:], 1)
	binary.NativeEndian.PutUint32(queues[u32(params[ringTail:]):], 1)
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, waitForOne, 0, 0)
	runtime.KeepAlive(flipped)
	if errno != 0 {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	if n := int32(u32(queues[u32(params[ringCQEs:])+resultInCQE:])); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}
