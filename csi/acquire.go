package csi

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

const (
	// noDeadline is how long a call without a deadline is held: kubelet's own limit
	// (csiTimeout, pkg/volume/csi/csi_plugin.go).
	noDeadline = 2 * time.Minute
	// margin is what is left of a held call when it is answered.
	margin = 2 * time.Second
	// answerTime is how long after the end of its wait the agent may take to say so.
	answerTime = time.Second
	// redial is the pause before the agent is asked again within one held call.
	redial = time.Second
)

const agentUnreachable = "the Ballast agent on this node is not reachable " +
	"(is its pod running? look at: kubectl get pods -A -o wide, and at the agent's log)"

// acquire holds the call until the View is ready, until a person must mend something,
// or until 2 s before the call's deadline. What time can mend goes on within it: a View
// on its way, an agent that is away.
func (n *node) acquire(ctx context.Context, req *agentpb.AcquireRequest) (*agentpb.Ready, error) {
	hold, end := holdTimes(ctx, time.Now())
	caller := ctx
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	defer context.AfterFunc(n.stopped, cancel)()

	for {
		req.Wait = durationpb.New(max(0, time.Until(hold)))
		resp, err := n.agent.Acquire(ctx, req)
		var last *failure
		switch result := resp.GetResult().(type) {
		case *agentpb.AcquireResponse_Ready:
			return result.Ready, nil
		case *agentpb.AcquireResponse_Refused:
			return nil, refused(result.Refused)
		case *agentpb.AcquireResponse_Waiting:
			last = failf(waiting, "%s", result.Waiting.GetProgress())
			if result.Waiting.GetOver() { // the pod is being deleted: kubelet waits for this call to unpublish
				return nil, last
			}
		default:
			if err != nil {
				last = failf(agentAway, "%s: %v", agentUnreachable, err)
			} else {
				last = failf(agentAway, "%s: it gave an answer of a kind that this version does not know", agentUnreachable)
			}
			n.agentGone()
		}
		// At hold the answer is what was last heard.
		select {
		case <-time.After(max(0, min(redial, time.Until(hold)))):
		case <-ctx.Done():
		}
		switch {
		case n.stopped.Err() != nil:
			return nil, failf(stopping, "Ballast's CSI driver on this node is stopping; what was begun goes on, and the next call finds it")
		case caller.Err() != nil:
			return nil, failf(cancelled, "the call was given up: %v", caller.Err())
		case time.Until(hold) <= 0:
			return nil, last
		}
	}
}

// holdTimes returns until when a call is held, and when the agent must have answered.
func holdTimes(ctx context.Context, now time.Time) (hold, end time.Time) {
	deadline, has := ctx.Deadline()
	if !has {
		deadline = now.Add(noDeadline)
	}
	left := deadline.Sub(now)
	if left < 2*margin {
		return now.Add(left / 2), now.Add(left * 3 / 4)
	}
	return deadline.Add(-margin), deadline.Add(-margin + answerTime)
}

// agentGone notes that the agent could not be asked, so that pins are reconciled as
// soon as it can.
func (n *node) agentGone() {
	n.metrics.agentErrors.Inc()
	select {
	case n.reconnect <- struct{}{}:
	default:
	}
}
