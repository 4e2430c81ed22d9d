package hubcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fuse is a file server that shows a directory of this machine, and can be told to
// answer a kind of request with an error, or not at all. The kernel's side is the real
// one: what waits here waits as it does for a dead NFS server.
type fuse struct {
	dir    string   // where it is mounted
	device int      // of the serving thread
	wake   *os.File // each byte makes that look whether it is to answer or to end
	ended  chan struct{}

	mu     sync.Mutex // guards all below
	nodes  []string   // the path of node i+1
	faults map[uint32]fault
	held   [][]byte // requests that hang
	answer [][]byte // requests that hung, and are to be answered
	over   bool
	served map[uint32]int
}

// fault is what is done to requests of a kind about what is named so, or about anything.
type fault struct {
	name  string
	errno syscall.Errno // 0: they hang
}

// Kinds of request (include/uapi/linux/fuse.h).
const (
	fuseLookup   = 1
	fuseGetattr  = 3
	fuseReadlink = 5
	fuseOpen     = 14
	fuseRead     = 15
	fuseRelease  = 18
	fuseFlush    = 25
	fuseInit     = 26
	fuseOpendir  = 27
	fuseReaddir  = 28
)

// serveFuse mounts dir through FUSE until the test's end.
func serveFuse(t *testing.T, dir string) *fuse {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("a file system that hangs needs FUSE: /dev/fuse: %v", err)
	}
	var pipe [2]int
	check(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	s := &fuse{dir: t.TempDir(), device: fd, wake: os.NewFile(uintptr(pipe[1]), "wake"), nodes: []string{dir}, ended: make(chan struct{}),
		faults: map[uint32]fault{}, served: map[uint32]int{}}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
	if err := unix.Mount("ballast-test", s.dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		unix.Close(pipe[0])
		s.wake.Close()
		t.Skipf("a file system that hangs needs FUSE: mount: %v", err)
	}
	began := make(chan error)
	go s.serve(pipe[0], began)
	check(t, <-began)
	unix.Close(fd)
	unix.Close(pipe[0])
	t.Cleanup(func() {
		s.let() // whoever still waits is told, before the mount is gone
		check(t, unix.Unmount(s.dir, unix.MNT_DETACH))
		s.mu.Lock()
		s.over = true
		s.mu.Unlock()
		s.look()
		<-s.ended
		s.wake.Close()
	})
	return s
}

// look has the serving thread look at what is to be done.
func (s *fuse) look() { _, _ = s.wake.Write([]byte{0}) }

// hang leaves requests of this kind, about this file or any, without an answer until let.
func (s *fuse) hang(kind uint32, name ...string) { s.fail(kind, 0, name...) }

// fail answers such requests with errno.
func (s *fuse) fail(kind uint32, errno syscall.Errno, name ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[kind] = fault{strings.Join(name, ""), errno}
}

// let answers all that hang.
func (s *fuse) let() {
	s.mu.Lock()
	s.answer, s.held = append(s.answer, s.held...), nil
	clear(s.faults)
	s.mu.Unlock()
	s.look()
}

// hanging is how many requests hang.
func (s *fuse) hanging() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// count is how many requests of a kind were answered.
func (s *fuse) count(kind uint32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served[kind]
}

// serve answers until it is over. It is a thread with descriptors of its own, the only
// one that has the device: if the process is killed, so is that, and the kernel ends what
// hangs. Otherwise the threads that hang would keep the device, and the device them.
func (s *fuse) serve(wake int, began chan<- error) {
	defer close(s.ended)
	runtime.LockOSThread() // for good
	err := unix.Unshare(unix.CLONE_FILES)
	began <- err
	if err != nil {
		return
	}
	defer unix.Close(s.device)
	defer unix.Close(wake)
	buf := make([]byte, 1<<20+1<<12)
	for {
		polled := []unix.PollFd{{Fd: int32(s.device), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		_, _ = unix.Poll(polled, -1)
		if polled[1].Revents != 0 {
			_, _ = unix.Read(wake, buf[:1])
		}
		s.mu.Lock()
		answer, over := s.answer, s.over
		s.answer = nil
		s.mu.Unlock()
		for _, request := range answer {
			s.handle(request)
		}
		if over {
			return
		}
		if polled[0].Revents != 0 {
			if n, err := unix.Read(s.device, buf); err == nil {
				s.handle(bytes.Clone(buf[:n]))
			}
		}
	}
}

// handle answers one request, whose header is length, kind, id and node.
func (s *fuse) handle(request []byte) {
	kind := binary.LittleEndian.Uint32(request[4:])
	node := binary.LittleEndian.Uint64(request[16:])
	s.mu.Lock()
	fault, faulty := s.faults[kind]
	if faulty = faulty && (fault.name == "" || filepath.Base(s.nodes[node-1]) == fault.name); faulty && fault.errno == 0 {
		s.held = append(s.held, request)
		s.mu.Unlock()
		return
	}
	errno := fault.errno
	if !faulty {
		errno = 0
	}
	s.served[kind]++
	s.mu.Unlock()
	if kind == 2 || kind == 36 || kind == 42 { // forget, interrupt, batch_forget: have no answer
		return
	}
	var out []byte
	if errno == 0 {
		out, errno = s.reply(kind, s.path(node), request[40:])
	}
	if errno != 0 {
		out = nil
	}
	header := le(nil, uint32(16+len(out)), int32(-errno), binary.LittleEndian.Uint64(request[8:]))
	_, _ = unix.Write(s.device, append(header, out...)) // ENOENT: nobody waits any more
}

// le appends values in the kernel's form.
func le(b []byte, values ...any) []byte {
	for _, v := range values {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return b
}

func (s *fuse) path(node uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if node == 0 { // INIT's
		return ""
	}
	return s.nodes[node-1]
}

func (s *fuse) node(path string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, known := range s.nodes {
		if known == path {
			return uint64(i + 1)
		}
	}
	s.nodes = append(s.nodes, path)
	return uint64(len(s.nodes))
}

func (s *fuse) reply(kind uint32, path string, in []byte) ([]byte, syscall.Errno) {
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(in[at:]) }
	switch kind {
	case fuseInit:
		return le(nil, uint32(7), uint32(31), u32(8), uint32(0), uint16(16), uint16(12), uint32(1<<16), uint32(1), make([]byte, 36)), 0
	case fuseLookup:
		path = filepath.Join(path, string(in[:bytes.IndexByte(in, 0)]))
		attr, errno := attributes(path)
		return le(nil, s.node(path), make([]byte, 32), attr), errno
	case fuseGetattr:
		attr, errno := attributes(path)
		return le(nil, make([]byte, 16), attr), errno
	case fuseReadlink:
		target, err := os.Readlink(path)
		return []byte(target), errnoOf(err)
	case fuseOpen, fuseOpendir: // uncached
		return le(nil, uint64(0), uint32(1), uint32(0)), 0
	case fuseRead:
		f, err := os.Open(path)
		if err != nil {
			return nil, errnoOf(err)
		}
		defer f.Close()
		buf := make([]byte, u32(16))
		n, _ := f.ReadAt(buf, int64(binary.LittleEndian.Uint64(in[8:])))
		return buf[:n], 0
	case fuseReaddir:
		return s.list(path, int(binary.LittleEndian.Uint64(in[8:])))
	case fuseRelease, fuseFlush, 29: // releasedir
		return nil, 0
	}
	return nil, unix.ENOSYS
}

// list gives all that is in a directory at once: it must be small.
func (s *fuse) list(path string, from int) ([]byte, syscall.Errno) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, errnoOf(err)
	}
	var out []byte
	for i, e := range entries {
		if i < from {
			continue
		}
		out = le(out, uint64(i+100), uint64(i+1), uint32(len(e.Name())), uint32(0))
		out = append(out, e.Name()...)
		out = append(out, make([]byte, -len(out)&7)...)
	}
	return out, 0
}

// attributes are a struct fuse_attr.
func attributes(path string) ([]byte, syscall.Errno) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, errnoOf(err)
	}
	return le(nil, st.Ino, uint64(st.Size), uint64(st.Blocks), uint64(st.Atim.Sec), uint64(st.Mtim.Sec), uint64(st.Ctim.Sec),
		uint32(st.Atim.Nsec), uint32(st.Mtim.Nsec), uint32(st.Ctim.Nsec), st.Mode, uint32(st.Nlink), st.Uid, st.Gid, uint32(0), uint32(4096), uint32(0)), 0
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, fs.ErrNotExist):
		return unix.ENOENT
	}
	return unix.EIO
}
