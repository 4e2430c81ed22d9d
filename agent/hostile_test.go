package agent_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// long has the tests run that take longer than anyone waits for: make test-long.
var long = flag.Bool("long", false, "run the tests that take minutes")

// What the hostile tests hold together. Each row of their tables is one repository, or
// one Hub, that means harm. It runs on an agent of its own, and whatever else it shows:
//
//   - the call ends, or waits and says why, within the row's time;
//   - the heap grows by no more than the row's memory;
//   - another repository of the same Hub is acquired meanwhile, through the same agent;
//   - afterwards the store's invariants hold, nothing beside the cache directory has
//     changed, what was refused takes no room in it, and no goroutine is left.

// evilRepo is what the hostile repository is called; files of goodRepo are as they
// should be.
const (
	evilRepo   = "evil/repo"
	goodRepo   = "good/name"
	evilCommit = "e000000000000000000000000000000000000001"
)

// hostileRow is one repository or Hub that means harm, and what becomes of it.
type hostileRow struct {
	name string
	repo func(*evil)
	edit func(*agent.Request)

	refused error    // the call is refused, and this is why
	waits   bool     // or it waits, until its pod is told why
	says    []string // and then this is said

	within time.Duration // how long the call may take; 0: 20 s, most take some ms
	memory int64         // how many bytes the heap may grow by; 0: 32 MiB
	room   int64         // how many bytes may be left of it on disk; 0: 8 MiB
}

// events is an agent.Pods that hands on what pods are told.
type events func(p agent.Pod, warning bool, message string)

func (events) UserNamespace(context.Context, agent.Pod) (bool, error)   { return false, nil }
func (events) IsDeleting(string) bool                                   { return false }
func (e events) Tell(p agent.Pod, reason, message string, warning bool) { e(p, warning, message) }

// run runs r on an agent of its own.
func (r hostileRow) run(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(r.within, 20*time.Second))
	defer cancel()
	w := newWorld(t)
	w.dir = fence(t)
	var told atomic.Value
	w.cfg.Pods = events(func(_ agent.Pod, warning bool, message string) {
		if r.waits && warning { // and this is why
			told.Store(message)
			cancel()
		}
	})
	w.start()
	w.hub.AddRepo(goodRepo, small(1))
	e, asked := newEvil(evilRepo)
	r.repo(e)
	w.hub.Intercept(e.answer)

	other := make(chan error, 1)
	go func() {
		<-asked
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := w.Acquire(ctx, request("good", goodRepo))
		other <- err
	}()
	var m agent.Mountable
	var err error
	took, grew := measure(func() { m, err = w.Acquire(ctx, hostileRequest(r.edit)) })
	r.judge(t, evilRepo, m, err)
	if message := told.Load(); r.waits && message != err.Error() {
		t.Errorf("the pod was told %q, its call %q", message, err)
	}
	bounds(t, took, cmp.Or(r.within, 20*time.Second), grew, cmp.Or(r.memory, 32<<20))
	if err := <-other; err != nil {
		t.Errorf("another repository of the same Hub: %v", err)
	}
	w.halt()
	if room := allocated(t, w.dir); room > cmp.Or(r.room, 8<<20) {
		t.Errorf("what was refused takes %d bytes of the cache", room)
	}
}

func hostileRequest(edit func(*agent.Request)) agent.Request {
	req := request("evil", evilRepo)
	req.Pod = agent.Pod{Namespace: "tenant", Name: "evil", UID: "evil"}
	if edit != nil {
		edit(&req)
	}
	return req
}

// judge compares what came of the call with what r says.
func (r hostileRow) judge(t *testing.T, repo string, m agent.Mountable, err error) {
	t.Helper()
	var refused *agent.RefusedError
	var waiting *agent.WaitingError
	switch {
	case err == nil:
		t.Fatalf("it was given: %+v", m)
	case r.waits:
		if !errors.As(err, &waiting) {
			t.Fatalf("the call ended with %v; want a WaitingError", err)
		}
	case !errors.As(err, &refused) || !errors.Is(err, r.refused) && !(r.refused == errMismatch && errors.As(err, new(*fetcher.MismatchError))):
		t.Fatalf("the call ended with %v; want a RefusedError that is %q", err, r.refused)
	case refused.Advice == "" || strings.Contains(refused.Advice, "see the log") && r.refused != fetcher.ErrOffLimits: // the operator's to look into
		t.Errorf("%q does not say what to do", err)
	}
	contains(t, err.Error(), repo)
	contains(t, err.Error(), r.says...)
	if strings.ContainsFunc(err.Error(), func(c rune) bool { return !strconv.IsPrint(c) }) || len(err.Error()) > 2000 {
		t.Errorf("not fit to be shown (%d bytes): %q", len(err.Error()), err)
	}
}

func runHostile(t *testing.T, rows []hostileRow) {
	for _, r := range rows {
		t.Run(r.name, r.run)
	}
}
