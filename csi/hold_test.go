package csi

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

type answer = func(context.Context, *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error)

func answering(r *agentpb.AcquireResponse) answer {
	return func(context.Context, *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error) { return r, nil }
}

// afterWait answers as an agent does whose View is not there yet.
func afterWait(r *agentpb.AcquireResponse) answer {
	return func(ctx context.Context, in *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error) {
		select {
		case <-time.After(in.GetWait().AsDuration()):
			return r, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// over says that nobody waits for the View any more.
func over(r *agentpb.AcquireResponse) *agentpb.AcquireResponse {
	r.GetWaiting().Over = true
	return r
}

// hung never answers.
func hung(ctx context.Context, _ *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

const progress = "Qwen/Qwen3-0.6B@9d3b8e0: 42% of 1.5 GB"

func TestPublishHoldsUntilDeadlineThenAborts(t *testing.T) {
	for name, test := range map[string]struct {
		deadline time.Duration // 0: none
		agent    answer
		want     time.Duration
		code     codes.Code
		text     string
	}{
		"kubelet's deadline":               {120 * time.Second, afterWait(waitingFor(progress)), 118 * time.Second, codes.Aborted, progress},
		"no deadline":                      {0, afterWait(waitingFor(progress)), 118 * time.Second, codes.Aborted, progress},
		"a short deadline":                 {5 * time.Second, afterWait(waitingFor(progress)), 3 * time.Second, codes.Aborted, progress},
		"a deadline shorter than margins":  {2 * time.Second, afterWait(waitingFor(progress)), time.Second, codes.Aborted, progress},
		"an agent that answers too soon":   {120 * time.Second, answering(waitingFor(progress)), 118 * time.Second, codes.Aborted, progress},
		"an agent that hangs":              {120 * time.Second, hung, 119 * time.Second, codes.Unavailable, "not reachable"},
		"an agent that says nothing":       {120 * time.Second, answering(&agentpb.AcquireResponse{}), 118 * time.Second, codes.Unavailable, "does not know"},
		"a pod that is being deleted":      {120 * time.Second, answering(over(waitingFor(progress))), 0, codes.Aborted, progress},
		"no space yet ends at once":        {120 * time.Second, answering(refusing(agentpb.Refused_NO_SPACE, "too large")), 0, codes.ResourceExhausted, "too large"},
		"what a person mends ends at once": {120 * time.Second, answering(refusing(agentpb.Refused_DENIED, "accept the conditions")), 0, codes.PermissionDenied, "accept"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			target := b.target(t, "pod-1")
			synctest.Test(t, func(t *testing.T) {
				b := b.inBubble(t)
				b.agent.acquire = test.agent
				ctx := t.Context()
				if test.deadline != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.deadline)
					defer cancel()
				}
				start := time.Now()
				_, err := b.node.NodePublishVolume(ctx, publishRequest("vol", target))
				if took := time.Since(start); took != test.want {
					t.Errorf("held for %s, want %s", took, test.want)
				}
				wantCode(t, err, test.code)
				if err == nil || !strings.Contains(err.Error(), test.text) {
					t.Errorf("error %v, want %q in it", err, test.text)
				}
				for _, in := range b.agent.acquires {
					if wait := in.GetWait().AsDuration(); wait < 0 || wait > 118*time.Second {
						t.Errorf("the agent was asked to wait %s", wait)
					}
				}
			})
		})
	}
}

// inBubble makes the Server anew, so that what its channels and contexts wait for
// happens in this synctest bubble.
func (b *bench) inBubble(t *testing.T) *bench {
	t.Helper()
	cfg := b.cfg
	cfg.Registerer = nil
	s, err := New(cfg)
	must(t, err)
	t.Cleanup(s.node.stop)
	return &bench{Server: s, dir: b.dir, agent: b.agent, cfg: cfg, logs: b.logs}
}

func TestPublishRedialsAnAgentThatIsAway(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	synctest.Test(t, func(t *testing.T) {
		b := b.inBubble(t)
		b.agent.away = true
		ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
		defer cancel()
		back := time.AfterFunc(30*time.Second+time.Millisecond, func() { b.agent.set(func(a *fakeAgent) { a.away = false }) })
		defer back.Stop()
		start := time.Now()
		_, err := b.node.NodePublishVolume(ctx, publishRequest("vol", target))
		must(t, err)
		if took := time.Since(start); took != 31*time.Second {
			t.Errorf("mounted %s after the start, with an agent that is back after 30 s", took)
		}
		if n := len(b.agent.acquires); n != 32 {
			t.Errorf("the agent was asked %d times in 31 s", n)
		}
		b.wantMounted(t, target, true)
	})
}

func TestPublishSaysWhatToCheckWhenTheAgentStaysAway(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	synctest.Test(t, func(t *testing.T) {
		b := b.inBubble(t)
		b.agent.away = true
		ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
		defer cancel()
		start := time.Now()
		_, err := b.node.NodePublishVolume(ctx, publishRequest("vol", target))
		wantCode(t, err, codes.Unavailable)
		for _, want := range []string{"agent on this node is not reachable", "kubectl", "connection refused"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q in it", err, want)
			}
		}
		if took := time.Since(start); took != 118*time.Second {
			t.Errorf("held for %s", took)
		}
	})
}

func TestEveryWaitEndsAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		agent answer
		away  bool
		end   func(b *bench, cancel context.CancelFunc)
		code  codes.Code
	}{
		"cancelled while the agent waits": {agent: afterWait(waitingFor(progress)), end: func(_ *bench, c context.CancelFunc) { c() }, code: codes.Canceled},
		"cancelled while redialling":      {away: true, end: func(_ *bench, c context.CancelFunc) { c() }, code: codes.Canceled},
		"stopping while the agent waits":  {agent: afterWait(waitingFor(progress)), end: func(b *bench, _ context.CancelFunc) { b.node.stop() }, code: codes.Unavailable},
		"stopping while redialling":       {away: true, end: func(b *bench, _ context.CancelFunc) { b.node.stop() }, code: codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			target := b.target(t, "pod-1")
			synctest.Test(t, func(t *testing.T) {
				b := b.inBubble(t)
				b.agent.acquire, b.agent.away = test.agent, test.away
				ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
				defer cancel()
				start := time.Now()
				const at = 10*time.Second + 300*time.Millisecond
				time.AfterFunc(at, func() { test.end(b, cancel) })
				_, err := b.node.NodePublishVolume(ctx, publishRequest("vol", target))
				if took := time.Since(start); took != at {
					t.Errorf("ended after %s, want %s", took, at)
				}
				wantCode(t, err, test.code)
				if b.agent.releases != 0 {
					t.Error("a volume that goes on waiting was released")
				}
			})
		})
	}
}

func TestOneOperationAtATimeForATarget(t *testing.T) {
	b := newBench(t)
	target, other := b.target(t, "pod-1"), b.target(t, "pod-2")
	synctest.Test(t, func(t *testing.T) {
		b := b.inBubble(t)
		release := make(chan struct{})
		b.agent.acquire = func(_ context.Context, in *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error) {
			if in.GetVolume().GetTargetPath() == target {
				<-release
			}
			return ready(), nil
		}
		done := make(chan error)
		go func() {
			_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
			done <- err
		}()
		synctest.Wait()
		_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
		wantCode(t, err, codes.Aborted)
		if err == nil || !strings.Contains(err.Error(), "operation pending") {
			t.Errorf("second publish: %v", err)
		}
		_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
		wantCode(t, err, codes.Aborted)
		_, err = b.node.NodePublishVolume(t.Context(), publishRequest("vol-2", other))
		must(t, err)
		close(release)
		must(t, <-done)
		_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
		must(t, err)
	})
}
