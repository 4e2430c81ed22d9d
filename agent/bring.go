package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// bring fetches f's Snapshot, for as long as anyone waits and time can mend what goes
// wrong.
func (a *Agent) bring(f *flight) error {
	for {
		by, err := a.nextAsker(f)
		if err != nil {
			return err
		}
		err = a.attempt(f, by)
		switch {
		case err == nil:
			return nil
		case f.ctx.Err() != nil:
			return f.ctx.Err()
		case errors.Is(err, errAskAgain) || by.node && a.rest(f, by, err):
		case fetcher.Denied(err):
			if err := a.turnAway(f, by.cred, err); err != nil {
				return err
			}
		case passes(err):
			f.progress.stuck(err)
			a.tellWaiters(f)
			a.log.Debug("flight waits", zap.Stringer("revision", f.key.revision()), zap.Error(err))
			pause(f.ctx, a.cfg.RetryEvery, err)
		default:
			return err
		}
	}
}

// errAskAgain: what the node's token may be used for is to be found out once more.
var errAskAgain error = &fetcher.UnreachableError{Err: errors.New("to be asked again as anybody")}

// attempt fetches what is missing of f with one credential.
func (a *Agent) attempt(f *flight, by asker) error {
	ctx := f.ctx
	if by.node {
		if err := a.lookPublic(f); err != nil {
			return err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(f.ctx, a.cfg.ProofFor, errAskAgain)
		defer cancel()
	}
	f.progress.restart()
	return a.cfg.Engine.Fetch(ctx, fetcher.Job{
		Source:     a.cfg.Source,
		Revision:   f.key.revision(),
		Files:      f.selected.Files,
		Credential: by.cred,
		Sink:       &sink{agent: a, origin: f.key.origin, progress: f.progress},
		Progress: func(delta int64) {
			f.progress.fetch(delta)
			if delta > 0 {
				a.metrics.fetchedBytes.WithLabelValues(a.cfg.Source.Name()).Add(float64(delta))
			}
		},
		Failing: func(err error) { // for good: it still drains, and nobody may join it
			if !passes(err) && !fetcher.Denied(err) {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.forgetFlight(f)
			}
		},
	})
}

// lookPublic makes sure, before the node's token reads content, that anybody may read it
// now, or that no anonymous proof is on record: by one of yesterday, everybody would be
// given what the token was.
func (a *Agent) lookPublic(f *flight) error {
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
	g, err := a.askAs(f.ctx, query{repo: o.Repo, ref: f.key.commit.Ref()}, k, asker{})
	switch {
	case fetcher.Denied(err):
		if err := a.turnAway(f, fetcher.Secret{}, err); err != nil {
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

// nextAsker chooses whose credential f asks with next, and turns away the waiters
// that have none left. It fails when no waiter is left.
func (a *Agent) nextAsker(f *flight) (asker, error) {
	node := a.node.get()
	a.mu.Lock()
	defer a.mu.Unlock()
	var last error = context.Canceled
	for v, w := range f.waiters {
		list := f.askers(w, node)
		if i := slices.IndexFunc(list, func(by asker) bool { return f.denied[by.cred] == nil }); i >= 0 {
			return list[i], nil
		}
		w.err, last = f.denied[w.token], f.denied[w.token]
		close(w.failed)
		delete(f.waiters, v)
	}
	a.forgetFlight(f)
	return asker{}, last
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
	case f.isPublic() && time.Now().After(f.nodeRests):
		return append(node, anonymous, own)
	case f.isPublic():
		return []asker{anonymous, own}
	case w.opened && w.token.IsZero():
		return append(node, anonymous)
	case w.opened:
		return append(append([]asker{own}, node...), anonymous)
	}
	return []asker{own}
}

// isPublic reports whether bytes may still be asked for anonymously. a.mu is held.
func (f *flight) isPublic() bool { return f.public && f.denied[fetcher.Secret{}] == nil }

// rest does without the node's token for a while, if f can: where anyone may read, it never
// makes worse what works without it.
func (a *Agent) rest(f *flight, by asker, err error) bool {
	pause := a.cfg.RetryEvery
	var limited *fetcher.RateLimitedError
	switch {
	case fetcher.Denied(err) || errors.Is(err, fetcher.ErrInsecure):
		pause = a.cfg.ProofFor
	case errors.As(err, &limited):
		pause = max(pause, limited.RetryAfter)
	case !fetcher.Transient(err):
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !f.isPublic() {
		return false
	}
	a.node.failed(by.cred, err)
	f.nodeRests = time.Now().Add(pause)
	return true
}

// turnAway records that cred was denied while f was under way.
func (a *Agent) turnAway(f *flight, cred fetcher.Secret, err error) error {
	a.mu.Lock()
	f.denied[cred] = err
	a.mu.Unlock()
	return a.access.withdraw(cred, f.key.origin.Repo)
}
