package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// Sockets of Ballast's, as the node sees them.
const (
	agentSocket = "/run/ballast/agent.sock"
	httpSocket  = "/run/ballast-csi/http.sock"
	csiSocket   = "/var/lib/kubelet/plugins/" + driver + "/csi.sock"
)

// What a client says first on such a socket. A server of gRPC answers with its settings
// (RFC 9113, 3.4).
var (
	grpcHello = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	httpHello = []byte("GET /healthz HTTP/1.0\r\n\r\n")
)

// TestSocketsServeTheOtherPartAlone: anybody else's process on the node is turned away,
// wherever the file's mode lets it in.
func TestSocketsServeTheOtherPartAlone(t *testing.T) {
	w := onNode(t)
	for _, s := range []struct {
		path   string
		mode   fs.FileMode
		owner  uint32
		hello  []byte
		served map[uint32]bool
	}{
		// The directory is the server's: nobody else puts a socket there.
		{agentSocket, 0o666, agentUID, grpcHello, map[uint32]bool{0: true, agentUID: true, 1000: false, 65534: false}},
		{httpSocket, 0o666, 0, httpHello, map[uint32]bool{0: true, agentUID: true, 1000: false, 65534: false}},
		{csiSocket, 0o600, 0, grpcHello, map[uint32]bool{0: true, agentUID: false, 1000: false}},
	} {
		for path, mode := range map[string]fs.FileMode{s.path: fs.ModeSocket | s.mode, filepath.Dir(s.path): fs.ModeDir | 0o755} {
			info, err := os.Lstat(w.onDisk(path))
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); info.Mode() != mode || st.Uid != s.owner || st.Gid != s.owner {
				t.Errorf("%s: %s of %d:%d; want %s of %d", path, info.Mode(), st.Uid, st.Gid, mode, s.owner)
			}
		}
		for uid, served := range s.served {
			answer, err := askAs(uid, w.onDisk(s.path), s.hello)
			if got := len(answer) > 0; got != served {
				t.Errorf("%s: uid %d is served: %t (%v); want %t", s.path, uid, got, err, served)
			}
			t.Logf("%s: uid %d: %d bytes of answer, %v", s.path, uid, len(answer), err)
		}
	}
}

// askAs connects to the socket at path as a process of uid's that has no capability
// does, and returns what it is answered to hello: nothing, if the connection is closed.
func askAs(uid uint32, path string, hello []byte) (answer []byte, err error) {
	// Root's eyes find the way: the path leads through /proc of another process.
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	err = asUser(uid, func() error {
		answer, err = ask(fmt.Sprintf("/proc/thread-self/fd/%d/%s", dir, filepath.Base(path)), hello)
		return err
	})
	return answer, err
}

// asUser has do run with the rights of uid, and of no group but its own. The functions of
// package syscall would change all threads.
func asUser(uid uint32, do func() error) error {
	groups, err := unix.Getgroups()
	if err != nil {
		return err
	}
	raw := make([]uint32, len(groups)+1) // never empty
	for i, g := range groups {
		raw[i] = uint32(g)
	}
	const keep = ^uintptr(0)
	become := func(uid uint32, groups int) error {
		steps := [][4]uintptr{
			{unix.SYS_SETRESUID, keep, 0, keep}, // who may do the rest
			{unix.SYS_SETGROUPS, uintptr(groups), uintptr(unsafe.Pointer(&raw[0])), 0},
			{unix.SYS_SETRESGID, keep, uintptr(uid), keep},
			{unix.SYS_SETRESUID, keep, uintptr(uid), keep},
		}
		for _, s := range steps {
			if _, _, errno := unix.RawSyscall(s[0], s[1], s[2], s[3]); errno != 0 {
				return errno
			}
		}
		return nil
	}
	runtime.LockOSThread()
	if err := become(uid, 0); err != nil {
		return err
	}
	err = do()
	if back := become(0, len(groups)); back != nil {
		return back // and the thread is nobody else's
	}
	runtime.UnlockOSThread()
	return err
}

// ask sends hello to the unix socket at path and returns the first bytes of the answer.
func ask(path string, hello []byte) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := unix.Sendto(fd, hello, unix.MSG_NOSIGNAL, nil); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	answer := make([]byte, 256)
	n, err := unix.Read(fd, answer)
	return answer[:max(n, 0)], err
}

// TestDriverSaysNothingToAnotherUsersSocket: a process of another user serves where the
// agent's socket was. The driver hangs up before it has said a word, and the pod's token
// with it; once the agent is back the pod starts.
func TestDriverSaysNothingToAnotherUsersSocket(t *testing.T) {
	w := onNode(t)
	m := w.publish(t, hub.SmallModel)
	reader := w.token("impostor")
	w.hub.Private(m.repo, reader)
	ns := w.namespace(t)
	w.secret(t, ns, "reader", "HF_TOKEN", reader)
	back := w.withoutAgent(t)

	path := w.onDisk(agentSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	impostor, err := net.Listen("unix", path) // root's
	if err != nil {
		t.Fatal(err)
	}
	defer impostor.Close()
	var calls atomic.Int32
	said := make(chan []byte, 100)
	go func() {
		for {
			conn, err := impostor.Accept()
			if err != nil {
				close(said)
				return
			}
			calls.Add(1)
			heard, _ := io.ReadAll(io.LimitReader(conn, 1<<20))
			said <- heard
			conn.Close()
		}
	}()
	volume := with("reader", inline(m.repo))
	p := w.create(t, w.pod(ns, "waits", &volume))
	eventually(t, 30*time.Second, func() string {
		if n := calls.Load(); n < 3 {
			return fmt.Sprintf("%d connections", n)
		}
		return ""
	})
	w.nothingFor(t, p)
	impostor.Close()
	var heard bytes.Buffer
	for words := range said {
		heard.Write(words)
	}
	if heard.Len() > 0 {
		t.Errorf("the driver said %q", heard.Bytes())
	}
	back()
	w.running(t, p, time.Minute)
	w.check(t, p, modelDir, m, "")
	w.remove(t, p, 30*time.Second)
	w.noTraces(t, p, 10*time.Second)
	t.Logf("%d connections, no word on any", calls.Load())
}
