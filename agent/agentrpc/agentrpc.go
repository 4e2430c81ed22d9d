// Package agentrpc joins agentpb, the protocol, to agent, the core: Local in one
// process, Serve and Dial over a unix socket whose two ends check each other's uid.
//
// It owns the translation and nothing else: requests are parsed here into types
// that cannot hold a bad value, outcomes are written as responses. It must never
// decide anything. A gRPC error from this service means that the agent could not
// be asked; what the agent says is always in the response.
package agentrpc

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"google.golang.org/grpc"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Local returns a client that asks a in this process, without a socket.
func Local(a *agent.Agent) agentpb.AgentClient { return local{service{agent: a}} }

type local struct{ service service }

func (l local) Acquire(ctx context.Context, in *agentpb.AcquireRequest, _ ...grpc.CallOption) (*agentpb.AcquireResponse, error) {
	return l.service.Acquire(ctx, in)
}

func (l local) Release(ctx context.Context, in *agentpb.ReleaseRequest, _ ...grpc.CallOption) (*agentpb.ReleaseResponse, error) {
	return l.service.Release(ctx, in)
}

func (l local) Pins(ctx context.Context, in *agentpb.PinsRequest, _ ...grpc.CallOption) (*agentpb.PinsResponse, error) {
	return l.service.Pins(ctx, in)
}

// service satisfies agentpb.AgentServer with an Agent.
type service struct {
	agentpb.UnimplementedAgentServer
	agent *agent.Agent
}

func (s service) Acquire(ctx context.Context, in *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error) {
	req, err := parse(in)
	if err != nil {
		return refused(agentpb.Refused_INVALID, err), nil
	}
	wait, cancel := context.WithTimeout(ctx, in.GetWait().AsDuration())
	defer cancel()
	m, err := s.agent.Acquire(wait, req)
	if err != nil {
		return outcome(err), nil
	}
	return &agentpb.AcquireResponse{Result: &agentpb.AcquireResponse_Ready{Ready: &agentpb.Ready{
		View:         m.View,
		Empty:        m.Empty,
		Commit:       m.Revision.Commit.String(),
		Notice:       m.Notice,
		FetchedBytes: m.Fetched,
		Bind:         m.Bind,
	}}}, nil
}

func (s service) Release(ctx context.Context, in *agentpb.ReleaseRequest) (*agentpb.ReleaseResponse, error) {
	if in.GetVolume() == nil && in.GetPin() != "" {
		return &agentpb.ReleaseResponse{}, s.agent.ReleasePin(ctx, in.GetPin())
	}
	v, err := parseVolume(in.GetVolume())
	if err != nil {
		return nil, err
	}
	return &agentpb.ReleaseResponse{}, s.agent.Release(ctx, v)
}

func (s service) Pins(ctx context.Context, _ *agentpb.PinsRequest) (*agentpb.PinsResponse, error) {
	volumes, unreadable := s.agent.Pins(ctx)
	out := &agentpb.PinsResponse{Unreadable: unreadable}
	for _, v := range volumes {
		out.Volumes = append(out.Volumes, &agentpb.Volume{Id: v.ID, TargetPath: v.Target})
	}
	return out, nil
}

// layouts are the wire's words for the store's.
var layouts = map[agentpb.Layout]store.Layout{
	agentpb.Layout_SNAPSHOT:  store.Snapshot,
	agentpb.Layout_HUB_CACHE: store.HubCache,
}

func parse(in *agentpb.AcquireRequest) (req agent.Request, err error) {
	if req.Volume, err = parseVolume(in.GetVolume()); err != nil {
		return req, err
	}
	req.Pod = agent.Pod{Namespace: in.GetPod().GetNamespace(), Name: in.GetPod().GetName(), UID: in.GetPod().GetUid()}
	if req.Repo, err = fetcher.ParseRepo(in.GetRepo()); err != nil {
		return req, err
	}
	if req.Ref, err = fetcher.ParseRef(in.GetRevision()); err != nil {
		return req, err
	}
	if req.Filter, err = fetcher.NewFilter(in.GetInclude(), in.GetExclude()); err != nil {
		return req, err
	}
	layout, ok := layouts[in.GetLayout()]
	if !ok {
		return req, fmt.Errorf("layout %d is not known to this agent: it may be older than the CSI driver", in.GetLayout())
	}
	req.Layout = layout
	req.Token = fetcher.NewSecret(in.GetToken())
	req.Writable = in.GetWritable()
	return req, nil
}

func parseVolume(in *agentpb.Volume) (store.Volume, error) {
	if in.GetId() == "" || !filepath.IsAbs(in.GetTargetPath()) {
		return store.Volume{}, fmt.Errorf("volume %q at %q: must have an id and an absolute target path", in.GetId(), in.GetTargetPath())
	}
	return store.Volume{ID: in.GetId(), Target: in.GetTargetPath()}, nil
}

// outcome writes what Acquire returned besides a View.
func outcome(err error) *agentpb.AcquireResponse {
	var waiting *agent.WaitingError
	if errors.As(err, &waiting) {
		return &agentpb.AcquireResponse{Result: &agentpb.AcquireResponse_Waiting{Waiting: &agentpb.Waiting{
			Progress:   waiting.Progress,
			DoneBytes:  waiting.Done,
			TotalBytes: waiting.Total,
			Over:       waiting.Over,
		}}}
	}
	var mismatch *fetcher.MismatchError
	if errors.As(err, &mismatch) {
		return refused(agentpb.Refused_MISMATCH, err)
	}
	for _, r := range []struct {
		err    error
		reason agentpb.Refused_Reason
	}{
		{agent.ErrNothingSelected, agentpb.Refused_INVALID},
		{agent.ErrWritable, agentpb.Refused_INVALID},
		{fetcher.ErrNotFound, agentpb.Refused_NOT_FOUND},
		{fetcher.ErrRevisionNotFound, agentpb.Refused_NOT_FOUND},
		{fetcher.ErrEntryNotFound, agentpb.Refused_NOT_FOUND},
		{fetcher.ErrBadToken, agentpb.Refused_UNAUTHENTICATED},
		{fetcher.ErrGated, agentpb.Refused_DENIED},
		{fetcher.ErrForbidden, agentpb.Refused_DENIED},
		{store.ErrTooLarge, agentpb.Refused_NO_SPACE},
		{store.ErrPinned, agentpb.Refused_INVALID},
	} {
		if errors.Is(err, r.err) {
			return refused(r.reason, err)
		}
	}
	return refused(agentpb.Refused_INTERNAL, err)
}

func refused(reason agentpb.Refused_Reason, err error) *agentpb.AcquireResponse {
	return &agentpb.AcquireResponse{Result: &agentpb.AcquireResponse_Refused{Refused: &agentpb.Refused{
		Reason:  reason,
		Message: err.Error(),
	}}}
}
