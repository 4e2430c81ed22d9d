package csi

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/ballast-csi/ballast/agent/unixsock"
)

// service is a gRPC server that serves on a socket.
type service struct {
	server *grpc.Server
	done   chan struct{}
}

// serve listens on path and serves. Should serving end without stop, fail is told.
func serve(server *grpc.Server, path string, fail context.CancelCauseFunc) (*service, error) {
	l, err := unixsock.Listen(path, nil) // for its owner, root, alone
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
