package agent

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// call is one call of Acquire.
type call struct {
	pod     Pod
	end     context.CancelFunc
	over    bool // its pod is being deleted; guarded by Agent.mu
	counted bool // Run waits for it
}

// enter registers a call, so that Release, its pod's deletion and the agent's stop end
// it by ending the context it returns. leave must follow.
func (a *Agent) enter(ctx context.Context, req Request) (context.Context, *call) {
	ctx, end := context.WithCancel(ctx)
	stop := context.AfterFunc(a.ctx, end)
	c := &call{pod: req.Pod, end: func() { stop(); end() }}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls[req.Volume] == nil {
		a.calls[req.Volume] = map[*call]struct{}{}
	}
	a.calls[req.Volume][c] = struct{}{}
	c.over = a.cfg.Pods != nil && req.Pod.UID != "" && a.cfg.Pods.IsDeleting(req.Pod.UID)
	if c.over || a.closed {
		c.end()
		return ctx, c
	}
	a.work.Add(1)
	c.counted = true
	return ctx, c
}

func (a *Agent) leave(c *call, v store.Volume) {
	c.end()
	a.mu.Lock()
	defer a.mu.Unlock()
	if delete(a.calls[v], c); len(a.calls[v]) == 0 {
		delete(a.calls, v)
	}
	if c.counted {
		a.work.Done()
	}
}

// ended says why a wait has ended without a View.
func (a *Agent) ended(c *call, waiting *WaitingError) *WaitingError {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := *waiting
	switch {
	case c.over:
		told.Over = true
		told.Progress += "; the pod is being deleted"
	case a.closed:
		told.Progress += "; the agent is stopping"
	}
	return &told
}

// begin adds f to the agent's background work, unless the agent is stopping. a.mu is
// held.
func (a *Agent) begin(f func()) bool {
	if a.closed {
		return false
	}
	a.work.Go(f)
	return true
}

// passes reports whether time may mend err: the far end's trouble, a Repo that changed
// under the question, a full disk, or this process being short of something.
func passes(err error) bool {
	for _, short := range []error{store.ErrNoSpace, store.ErrReplaced, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, short) {
			return true
		}
	}
	return fetcher.Transient(err)
}

// delay says how long to wait after err: every, or as long as its RateLimitedError asks. Of
// several Sources' troubles the first that may be mended counts.
func delay(every time.Duration, err error) time.Duration {
	var all *fetcher.SourcesError
	if !errors.As(err, &all) {
		var limited *fetcher.RateLimitedError
		if errors.As(err, &limited) {
			return max(every, limited.RetryAfter)
		}
		return every
	}
	first := time.Duration(0)
	for _, p := range all.Tried {
		if d := delay(every, p.Err); passes(p.Err) && (first == 0 || d < first) {
			first = d
		}
	}
	return max(every, first)
}

// pause waits after err, as delay says.
func pause(ctx context.Context, every time.Duration, err error) {
	timer := time.NewTimer(delay(every, err))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
