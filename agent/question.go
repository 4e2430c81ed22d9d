package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	// longestAnswer bounds one question to the Hub, a listing of a million files included.
	longestAnswer = 10 * time.Minute
	// longestLocalAnswer bounds one to a local Authority, which may have to hash all that
	// it lists.
	longestLocalAnswer = time.Hour
	// questionsANamespace bounds those under way for one namespace: as they outlive who
	// asks, no bound on pods or connections is one on them.
	questionsANamespace = 32
)

// askKey is what a question is about, as whom it is asked, and of which local Authority
// ("" for the Hub).
type askKey struct {
	proof     proofKey
	ref       fetcher.Ref
	opened    bool
	authority string
}

// question is put to an Authority once for all who wait for its answer. It outlives
// their calls: a long listing takes longer than one.
type question struct {
	done  chan struct{} // closed when it is answered
	grant grant
	err   error
}

// places are what a namespace's questions take: that of whoever asked first.
type places struct {
	taken int
	freed chan struct{} // closed when one is
}

// question returns the one being asked about q of a local Authority, or of the Hub (nil),
// or begins to ask it. For that it waits until there is a place, or ctx ends.
func (a *Agent) question(ctx context.Context, q query, by fetcher.Authority) (*question, error) {
	for told := false; ; told = true {
		asked, full := a.begun(q, by)
		if asked != nil {
			return asked, nil
		}
		waits := &WaitingError{Progress: fmt.Sprintf("%s: waits for %d other questions of this namespace to %s",
			q, questionsANamespace, a.nameOf(by))}
		if !told {
			a.tell(q.who.Pod, reasonWaiting, waits.Progress)
		}
		select {
		case <-full.freed:
		case <-ctx.Done():
			return nil, errors.Join(waits, ctx.Err())
		}
	}
}

// renew asks q for nobody in particular: not again about a Repo within RefMaxAge, as each
// hit begins it. It waits for no place: who needs the answer will ask himself.
func (a *Agent) renew(q query) {
	a.mu.Lock()
	due := !within(a.renewals[q.repo], a.cfg.RefMaxAge)
	if due {
		a.renewals[q.repo] = time.Now()
	}
	a.mu.Unlock()
	if due {
		a.begun(q, nil)
	}
}

// forgetRenewals drops what holds up no renewal any more.
func (a *Agent) forgetRenewals() {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.renewals, func(_ fetcher.Repo, at time.Time) bool { return !within(at, a.cfg.RefMaxAge) })
}

// begun is question, but returns what is full rather than wait.
func (a *Agent) begun(q query, by fetcher.Authority) (asked *question, full places) {
	key := askKey{a.access.proofKey(q.who.Token, q.repo), q.ref, a.opened(q.who.Pod, q.repo, ""), ""}
	if by != nil { // which is given no token, and asked for nobody to whom it is not opened
		key = askKey{a.access.proofKey(fetcher.Secret{}, q.repo), q.ref, true, by.Name()}
	}
	namespace := q.who.Pod.Namespace
	a.mu.Lock()
	defer a.mu.Unlock()
	if asked := a.questions[key]; asked != nil {
		return asked, places{}
	}
	p := a.places[namespace]
	if p == nil {
		p = &places{freed: make(chan struct{})}
		a.places[namespace] = p
	}
	if p.taken == questionsANamespace {
		return nil, *p
	}
	asked = &question{done: make(chan struct{})}
	if !a.begin(func() {
		a.put(q, by, asked)
		a.mu.Lock()
		delete(a.questions, key)
		a.free(namespace)
		close(asked.done)
		a.mu.Unlock()
		if by == nil {
			a.compareAfter(q, asked.err)
		}
	}) {
		asked.err = context.Canceled
		close(asked.done)
		return asked, places{}
	}
	p.taken++
	a.questions[key] = asked
	return asked, places{}
}

// free gives a place back. a.mu is held.
func (a *Agent) free(namespace string) {
	p := a.places[namespace]
	close(p.freed)
	p.freed = make(chan struct{})
	if p.taken--; p.taken == 0 {
		delete(a.places, namespace)
	}
}

// put puts q to a local Authority, or to the Hub (nil).
func (a *Agent) put(q query, by fetcher.Authority, asked *question) {
	longest := longestAnswer
	if by != nil {
		longest = longestLocalAnswer
	}
	ctx, cancel := context.WithTimeoutCause(a.ctx, longest, &fetcher.UnreachableError{
		Err: fmt.Errorf("%s did not answer about %s within %s", a.nameOf(by), q, longest)})
	defer cancel()
	if by != nil {
		asked.grant, asked.err = a.askLocal(ctx, q, by)
	} else {
		asked.grant, asked.err = a.ask(ctx, q)
	}
	if cause := context.Cause(ctx); asked.err != nil && fetcher.Unreachable(cause) {
		asked.err = cause
	}
	if a.check(asked.err) != nil {
		a.log.Debug("not let through", zap.Stringer("request", q), zap.Error(asked.err))
	}
}
