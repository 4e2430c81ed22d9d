package agentrpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/agentpb"
)

// Listen listens on a unix socket at path, replacing one that a dead process left.
// Connections from processes of other uids than those given are closed at once,
// whatever the mode of the socket and its directory allow (SO_PEERCRED, unix(7)).
func Listen(path string, log *zap.Logger, uids ...int) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier agent: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return &listener{l, log, uids}, nil
}

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

// checkPeer reports an error if the process at the other end of conn is none of uids.
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

// Serve answers on l for a until ctx ends; then it ends the calls in progress and
// returns. It closes l.
func Serve(ctx context.Context, l net.Listener, a *agent.Agent) error {
	server := grpc.NewServer()
	agentpb.RegisterAgentServer(server, service{agent: a})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Dial returns a connection to the agent's socket at path, made when it is first
// used and again within a second whenever it breaks. It talks only to a process
// of uid.
func Dial(path string, uid int) (*grpc.ClientConn, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, err
		}
		if err := checkPeer(conn, uid); err != nil {
			conn.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return conn, nil
	}
	return grpc.NewClient("passthrough:///agent",
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
}
