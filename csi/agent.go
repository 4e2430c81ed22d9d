package csi

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

const (
	// maxAnswer bounds what the agent answers, in bytes on the wire.
	maxAnswer = 64 << 10
	// maxPins bounds its list of pins: some 4,000 of kubelet's, when a node has a few
	// hundred pods. Unpacked, a list of nothing but empty ones is 40 times that.
	maxPins = 1 << 20
)

// guarded is an agent as this process, which is root, listens to it: it may be broken
// into. What it answers is bounded before it is read, and what it says is fit to print.
type guarded struct{ agent Agent }

func (g guarded) Acquire(ctx context.Context, in *agentpb.AcquireRequest, opts ...grpc.CallOption) (*agentpb.AcquireResponse, error) {
	resp, err := g.agent.Acquire(ctx, in, bounded(opts, maxAnswer)...)
	if ready := resp.GetReady(); ready != nil { // the other results' texts become a failure's
		resp = proto.CloneOf(resp)
		resp.GetReady().Commit, resp.GetReady().Notice = fit(ready.GetCommit()), fit(ready.GetNotice())
	}
	return resp, heard(err)
}

func (g guarded) Release(ctx context.Context, in *agentpb.ReleaseRequest, opts ...grpc.CallOption) (*agentpb.ReleaseResponse, error) {
	resp, err := g.agent.Release(ctx, in, bounded(opts, maxAnswer)...)
	return resp, heard(err)
}

func (g guarded) Pins(ctx context.Context, in *agentpb.PinsRequest, opts ...grpc.CallOption) (*agentpb.PinsResponse, error) {
	resp, err := g.agent.Pins(ctx, in, bounded(opts, maxPins)...)
	return resp, heard(err)
}

func bounded(opts []grpc.CallOption, size int) []grpc.CallOption {
	return append(slices.Clip(opts), grpc.MaxCallRecvMsgSize(size))
}

// heard is err with a text that is fit to print.
func heard(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s", fit(err.Error()))
}
