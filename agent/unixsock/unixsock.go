// Package unixsock listens on and dials unix sockets whose ends check each other's
// uid. It must never know what is spoken on them.
//
// Invariants:
//   - a socket that somebody serves on, and anything that is not a socket, is left
//     alone;
//   - no mode is changed, and nothing dialled, through a link at the socket's path: its
//     directory may be another user's, and hostile.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// MaxPath is what sockaddr_un holds besides the NUL, in bytes (unix(7)).
const MaxPath = 107

// CheckPath returns an error that says what to do if path cannot be a socket's.
func CheckPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("socket %q: must be a clean absolute path", path)
	}
	if len(path) > MaxPath {
		return fmt.Errorf("socket %s: the path is %d bytes long, and the kernel allows %d: choose a shorter directory", path, len(path), MaxPath)
	}
	return nil
}

// Listen listens on a unix socket at path, replacing one that a dead process left.
// Without uids only this process's own user and root may connect (mode 0600). With
// them everyone may connect, and connections from processes of other uids are closed
// at once and logged, whatever the socket's directory allows (SO_PEERCRED, unix(7)).
func Listen(path string, log *zap.Logger, uids ...int) (net.Listener, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mode is the socket's from its birth: Linux takes it from the descriptor.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if ctl := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); ctl != nil {
			return ctl
		}
		return err
	}}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if len(uids) == 0 {
		return l, nil
	}
	if err := openToAll(path); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &listener{l, log, uids}, nil
}

// openToAll lets everyone connect to the socket at path, whatever the umask is.
func openToAll(path string) error {
	fd, err := openSocket(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return os.Chmod(procPath(fd), 0o666)
}

// openSocket returns a descriptor (O_PATH) of the socket at path. It follows no link in
// its last component, and opens nothing else.
func openSocket(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: somebody has put something else there than a socket", path)
	}
	return fd, nil
}

// procPath names what fd is, whatever its path is now.
func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("socket %s: something that is not a socket is there; it was left alone", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("socket %s: another process is serving on it", path)
	case !errors.Is(err, unix.ECONNREFUSED): // a full backlog, say, or another user's
		return fmt.Errorf("socket %s: whether a process is serving on it is not known: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}

// listener lets only some users in.
type listener struct {
	net.Listener
	log  *zap.Logger
	uids []int
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err := checkPeer(conn, l.uids...); err != nil {
			l.log.Warn("connection refused", zap.String("socket", l.Addr().String()), zap.Error(err))
			conn.Close()
			continue
		}
		return conn, nil
	}
}

// Dial connects to the socket at path, and gives the connection up unless a process
// of uid is at its other end. What is no socket, a link to one too, is not connected to
// at all.
func Dial(ctx context.Context, path string, uid int) (net.Conn, error) {
	fd, err := openSocket(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", procPath(fd))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := checkPeer(conn, uid); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return conn, nil
}

// checkPeer returns an error if the process at the other end of conn is none of uids.
func checkPeer(conn net.Conn, uids ...int) error {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("SO_PEERCRED: %w", credErr)
	}
	if !slices.Contains(uids, int(cred.Uid)) {
		return fmt.Errorf("the process at the other end (pid %d) has uid %d; want one of %v", cred.Pid, cred.Uid, uids)
	}
	return nil
}
