package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// maxSocketPath is what sockaddr_un holds besides the NUL, in bytes (unix(7)).
const maxSocketPath = 107

func checkSocketPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("socket %q: must be a clean absolute path", path)
	}
	if len(path) > maxSocketPath {
		return fmt.Errorf("socket %s: the path is %d bytes long, and the kernel allows %d: choose a shorter directory", path, len(path), maxSocketPath)
	}
	return nil
}

// listen makes a unix socket that only its owner may use. A socket nobody listens on
// is replaced; anything else at path is an error.
func listen(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mode is the socket's from its birth: Linux takes it from the descriptor.
	owner := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if ctl := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); ctl != nil {
			return ctl
		}
		return err
	}}
	l, err := owner.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

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
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("socket %s: another process is serving on it", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}

// service is a gRPC server that serves on a socket.
type service struct {
	server *grpc.Server
	done   chan struct{}
}

// serve listens on path and serves. Should serving end without stop, fail is told.
func serve(server *grpc.Server, path string, fail context.CancelCauseFunc) (*service, error) {
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	s := &service{server, make(chan struct{})}
	go func() {
		defer close(s.done)
		if err := server.Serve(l); err != nil {
			fail(fmt.Errorf("serve on %s: %w", path, err))
		}
	}()
	return s, nil
}

// stop removes the socket, lets calls end for up to drain, and waits until nothing of
// the service is left.
func (s *service) stop() {
	hard := time.AfterFunc(drain, s.server.Stop)
	s.server.GracefulStop()
	hard.Stop()
	<-s.done
}
