package unixsock

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"go.uber.org/zap"
)

func TestListenReplacesOnlyWhatADeadProcessLeft(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")

	dead, err := net.Listen("unix", path)
	must(t, err)
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, dead.Close())
	alive, err := Listen(path, zaptest.NewLogger(t))
	must(t, err)
	defer alive.Close()

	if _, err := Listen(path, zaptest.NewLogger(t)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second listener on a socket that is served: %v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first one's socket is gone: %v", err)
	}
	conn.Close()

	full := filepath.Join(dir, "full") // a backlog of one, taken
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: full}))
	must(t, unix.Listen(fd, 0))
	busy, err := net.Dial("unix", full)
	must(t, err)
	defer busy.Close()
	if _, err := Listen(full, zaptest.NewLogger(t)); err == nil {
		t.Error("a socket whose process is busy was taken over")
	}
	if _, err := os.Lstat(full); err != nil {
		t.Errorf("the busy process's socket is gone: %v", err)
	}

	for name, make := range map[string]func(string) error{
		"file":      func(p string) error { return os.WriteFile(p, []byte("precious"), 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"link":      func(p string) error { return os.Symlink(path, p) },
	} {
		other := filepath.Join(dir, name)
		must(t, make(other))
		if _, err := Listen(other, zaptest.NewLogger(t)); err == nil || !strings.Contains(err.Error(), "left alone") {
			t.Errorf("a %s at the socket's path: %v", name, err)
		}
		if _, err := os.Lstat(other); err != nil {
			t.Errorf("the %s is gone: %v", name, err)
		}
	}
}

func TestPathsThatCannotBeASocketsAreRefused(t *testing.T) {
	for path, says := range map[string]string{
		"relative/s":                           "absolute",
		"/a/../s":                              "clean",
		"/" + strings.Repeat("x", MaxPath):     "shorter directory",
		filepath.Join(t.TempDir(), "none/s"):   "none",
		filepath.Join(t.TempDir(), "none\x00"): "socket",
	} {
		if l, err := Listen(path, zap.NewNop()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Listen(%q) = %v, %v; want an error that says %q", path, l, err, says)
		}
	}
}

func TestOnlyTheUIDsNamedGetAConnection(t *testing.T) {
	core, logged := observer.New(zap.WarnLevel)
	for _, tc := range []struct {
		uids []int
		mode os.FileMode
		in   bool
	}{
		{nil, 0o600, true},
		{[]int{12345, os.Getuid()}, 0o666, true},
		{[]int{os.Getuid() + 1}, 0o666, false},
	} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := Listen(path, zap.New(core), tc.uids...)
		must(t, err)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != tc.mode {
			t.Errorf("uids %v: mode %v, %v; want %o", tc.uids, info.Mode(), err, tc.mode)
		}
		accepted := make(chan net.Conn, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				conn.Write([]byte("x"))
				conn.Close()
			}
			accepted <- conn
		}()
		conn, err := Dial(t.Context(), path, os.Getuid())
		must(t, err)
		n, _ := conn.Read(make([]byte, 1))
		if (n == 1) != tc.in {
			t.Errorf("uids %v: let in: %v, want %v", tc.uids, n == 1, tc.in)
		}
		must(t, conn.Close())
		if _, err := Dial(t.Context(), path, os.Getuid()+1); err == nil || !strings.Contains(err.Error(), "uid") {
			t.Errorf("a server of another uid was dialled: %v", err)
		}
		must(t, l.Close())
		<-accepted
	}
	if logged.FilterMessage("connection refused").Len() == 0 {
		t.Error("nobody was told of the refusal")
	}
}

// The socket's directory is the agent's, and root dials.
func TestDialGoesNowhereButToASocketOfThatVeryDirectory(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", elsewhere)
	must(t, err)
	defer l.Close()
	reached := make(chan struct{}, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
			reached <- struct{}{}
		}
	}()
	for name, make := range map[string]func(string) error{
		"link to another socket": func(p string) error { return os.Symlink(elsewhere, p) },
		"link to nothing":        func(p string) error { return os.Symlink(p+"-absent", p) },
		"link to itself":         func(p string) error { return os.Symlink(p, p) },
		"file":                   func(p string) error { return os.WriteFile(p, nil, 0o666) },
		"directory":              func(p string) error { return os.Mkdir(p, 0o777) },
		"FIFO":                   func(p string) error { return unix.Mkfifo(p, 0o666) },
		"nothing":                func(string) error { return nil },
	} {
		path := filepath.Join(dir, name)
		must(t, make(path))
		conn, err := Dial(t.Context(), path, os.Getuid())
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: Dial = %v, %v", name, conn, err)
		}
	}
	if n := len(reached); n > 0 {
		t.Errorf("the other socket was connected to %d times", n)
	}
	conn, err := Dial(t.Context(), elsewhere, os.Getuid())
	must(t, err)
	conn.Close()
	<-reached
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
