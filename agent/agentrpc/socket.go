package agentrpc

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/unixsock"
)

// Serve answers on l for a until ctx ends; then it ends the calls in progress, and
// returns when a is no longer being asked anything. It closes l.
func Serve(ctx context.Context, l net.Listener, a *agent.Agent) error {
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	agentpb.RegisterAgentServer(server, service{agent: a})
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(stopped); server.Stop() })
	err := server.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	server.Stop()
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// maxHeaders bounds the headers of an answer in bytes: an agent that is not ours any more
// may send as many as a client takes, 16 MiB by default.
const maxHeaders = 64 << 10

// Dial returns a connection to the agent's socket at path, made when it is first
// used and again within a second whenever it breaks. It talks only to a process
// of uid.
func Dial(path string, uid int) (*grpc.ClientConn, error) {
	if err := unixsock.CheckPath(path); err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///agent",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return unixsock.Dial(ctx, path, uid) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
}
