package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// bring fetches f's Snapshot, for as long as anyone waits and time can mend what goes
// wrong.
func (a *Agent) bring(f *flight) error {
	var trouble error // of the credential that last began to rest
	for f.ctx.Err() == nil {
		by, until, err := a.nextAsker(f)
		if err != nil {
			return err
		}
		if !until.IsZero() {
			a.stuck(f, trouble)
			f.waitForAsker(until)
			continue
		}
		err = a.attempt(f, by)
		switch {
		case err == nil:
			return nil
		case f.ctx.Err() != nil: // and err says no more
		case ends(err):
			return err
		case useless(err):
			if err := a.turnAway(f, by, err); err != nil {
				return err
			}
		case errors.Is(err, errAskAgain):
		case a.rest(f, by, err):
			trouble = err
		default:
			a.stuck(f, err)
			pause(f.ctx, a.cfg.RetryEvery, err)
		}
	}
	return f.ctx.Err()
}

// ends reports whether err ends a Flight, whoever asks next: time does not mend it, or the
// Repo is another's now, and its waiters are to be authorised anew.
func ends(err error) bool {
	return errors.Is(err, store.ErrReplaced) || !passes(err) && !useless(err)
}

// useless reports whether err is a verdict on the credential alone.
func useless(err error) bool { return fetcher.Denied(err) || errors.Is(err, fetcher.ErrInsecure) }

// stuck tells f's waiters what stands in the way.
func (a *Agent) stuck(f *flight, err error) {
	f.progress.stuck(err)
	a.tellWaiters(f)
	a.log.Debug("flight waits", zap.Stringer("revision", f.key.revision()), zap.Error(err))
}

// errAskAgain: what the node's token may be used for is to be found out once more.
var errAskAgain error = &fetcher.UnreachableError{Err: errors.New("to be asked again as anybody")}

// attempt fetches what is missing of f with one credential.
func (a *Agent) attempt(f *flight, by asker) error {
	ctx := f.ctx
	if by.node {
		if err := a.lookPublic(ctx, f); err != nil {
			return err
		}
		var stop func()
		ctx, stop = a.keepLooking(f)
		defer stop()
	}
	f.progress.restart()
	return a.cfg.Engine.Fetch(ctx, fetcher.Job{
		Sources:    a.cfg.Sources,
		Revision:   f.key.revision(),
		Files:      f.selected.Files,
		Credential: by.cred,
		Sink:       &sink{agent: a, origin: f.key.origin, progress: f.progress},
		Progress: func(source string, delta int64) {
			f.progress.fetch(delta)
			if delta > 0 {
				a.metrics.fetchedBytes.WithLabelValues(source).Add(float64(delta))
			}
		},
		Failing: func(err error) { // for good: it still drains, and nobody may join it
			if ends(err) {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.forgetFlight(f)
			}
		},
	})
}

// keepLooking calls lookPublic every ProofFor, until stop is called. The context it returns
// ends by a verdict alone: what has begun is not cut for a Hub that cannot be asked.
func (a *Agent) keepLooking(f *flight) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(f.ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		for pause(ctx, a.cfg.ProofFor, nil); ctx.Err() == nil; {
			err := a.lookPublic(ctx, f)
			switch {
			case err == nil:
				pause(ctx, a.cfg.ProofFor, nil)
			case fetcher.Transient(err) && !errors.Is(err, errAskAgain):
				pause(ctx, a.cfg.RetryEvery, err)
			default:
				cancel(err)
			}
		}
	})
	return ctx, func() { cancel(nil); looking.Wait() }
}

// lookPublic makes sure, before the node's token reads content, that anybody may read it
// now, or that no anonymous proof is on record: by one of yesterday, everybody would be
// given what the token was.
func (a *Agent) lookPublic(ctx context.Context, f *flight) error {
	o := f.key.origin
	rec, err := a.store.Repo(o.Repo)
	switch {
	case err != nil:
		return err
	case rec.ID != o.ID:
		return store.ErrReplaced
	case within(rec.PublicAt, a.cfg.RefMaxAge) || rec.PublicAt.IsZero() && a.hasOpened(f):
		return nil
	}
	k := knowledge{grant: grant{origin: o, commit: f.key.commit}, publicAt: rec.PublicAt}
	g, err := a.askAs(ctx, query{repo: o.Repo, ref: f.key.commit.Ref()}, k, asker{})
	switch {
	case fetcher.Denied(err):
		if err := a.turnAway(f, asker{}, err); err != nil {
			return err
		}
		return errAskAgain
	case err == nil && g.origin != o:
		return store.ErrReplaced
	}
	return err
}

func (a *Agent) hasOpened(f *flight) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range f.waiters {
		if w.opened {
			return true
		}
	}
	return false
}

// nextAsker chooses whose credential f asks with next: of any waiter's, the first that was
// not turned away and does not rest. If all that are left rest, it says until when the
// first does. It turns away the waiters that have none left, and fails when no waiter is.
func (a *Agent) nextAsker(f *flight) (by asker, rest time.Time, err error) {
	node := a.node.get()
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-f.joined: // who has joined is looked at now
	default:
	}
	err = context.Canceled
	for v, w := range f.waiters {
		left := slices.DeleteFunc(f.askers(w, node), func(by asker) bool { return f.denied[by.cred] != nil })
		for _, by := range left {
			until := f.rests[by.cred]
			if !until.After(now) {
				return by, time.Time{}, nil
			}
			if rest.IsZero() || until.Before(rest) {
				rest = until
			}
		}
		if len(left) == 0 {
			w.err, err = f.denied[w.token], f.denied[w.token]
			close(w.failed)
			delete(f.waiters, v)
		}
	}
	if !rest.IsZero() {
		return asker{}, rest, nil
	}
	a.forgetFlight(f)
	return asker{}, time.Time{}, err
}

// askers says with which credentials to ask for w, in turn: where anyone may read, with
// the node's first, whose rate limit is higher. a.mu is held.
func (f *flight) askers(w *waiter, token fetcher.Secret) []asker {
	var node []asker
	if !token.IsZero() {
		node = []asker{{token, true}}
	}
	anonymous, own := asker{}, asker{cred: w.token}
	switch {
	case f.isPublic():
		return append(node, anonymous, own)
	case w.opened && w.token.IsZero():
		return append(node, anonymous)
	case w.opened:
		return append(append([]asker{own}, node...), anonymous)
	}
	return []asker{own}
}

// isPublic reports whether bytes may still be asked for anonymously. a.mu is held.
func (f *flight) isPublic() bool { return f.public && f.denied[fetcher.Secret{}] == nil }

// rest has f do without by's credential for a while, if the trouble is that credential's
// own: its rate limit is used up, or it is the node's, which never makes worse what works
// without it.
func (a *Agent) rest(f *flight, by asker, err error) bool {
	d := a.cfg.RetryEvery
	var limited *fetcher.RateLimitedError
	switch {
	case errors.As(err, &limited):
		d = max(d, limited.RetryAfter)
	case !by.node || !fetcher.Transient(err):
		return false
	}
	if by.node {
		a.node.failed(by.cred, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f.rests[by.cred] = time.Now().Add(d)
	return true
}

// waitForAsker waits until then, or until a Volume joins: its credential may be a better one.
func (f *flight) waitForAsker(until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.joined:
	case <-f.ctx.Done():
	}
}

// turnAway records that by's credential was of no use while f was under way. A verdict on
// the node's token, or on one that was not sent, says nothing of anybody's access.
func (a *Agent) turnAway(f *flight, by asker, err error) error {
	a.mu.Lock()
	f.denied[by.cred] = err
	a.mu.Unlock()
	if by.node {
		a.node.failed(by.cred, err)
		return nil
	}
	if !fetcher.Denied(err) {
		return nil
	}
	return a.access.withdraw(by.cred, f.key.origin.Repo)
}
