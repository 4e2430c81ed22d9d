package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// bring fetches f's Snapshot, for as long as anyone waits and time can mend what goes
// wrong.
func (a *Agent) bring(f *flight) error {
	if len(f.sources) == 0 {
		return fmt.Errorf("%s: %w", f.key.revision(), ErrNoSource)
	}
	var trouble error // of the credential that last began to rest
	for f.ctx.Err() == nil {
		by, asks, until, err := a.nextAsker(f)
		if err != nil {
			return err
		}
		if !asks {
			if whole, err := a.bringWithoutHub(f, until, trouble); whole || err != nil {
				return err
			}
			continue
		}
		err = a.attempt(f, f.sources, by)
		said := f.hubSaid(err)
		switch {
		case err == nil:
			return nil
		case f.ctx.Err() != nil: // and err says no more
		case f.ends(err):
			return err
		case useless(said):
			if err := a.turnAway(f, by, &verdict{err, said}); err != nil {
				return err
			}
		case errors.Is(err, errAskAgain):
		case a.rest(f, by, said):
			trouble = err
		default:
			a.stuck(f, err)
			pause(f.ctx, a.cfg.RetryEvery, err)
		}
	}
	return f.ctx.Err()
}

// bringWithoutHub brings what it can from the other Sources, since every credential rests
// until then or, if that is zero, is of no use; and waits if that is not all. What the Hub
// has to do with is not decided here, so only what is no Source's trouble ends f.
func (a *Agent) bringWithoutHub(f *flight, until time.Time, trouble error) (whole bool, err error) {
	if len(f.others) > 0 && !a.isBarren(f) {
		err := a.attempt(f, f.others, asker{})
		switch {
		case err == nil || f.ctx.Err() != nil:
			return err == nil, nil
		case !errors.As(err, new(*fetcher.SourcesError)) && f.ends(err):
			return false, err
		case !passes(err):
			a.mu.Lock()
			f.barren = true
			a.mu.Unlock()
		default:
			if again := time.Now().Add(delay(a.cfg.RetryEvery, err)); until.IsZero() || again.Before(until) {
				until = again
			}
		}
		if trouble == nil {
			trouble = err
		}
	}
	if !until.IsZero() {
		a.stuck(f, trouble)
		f.waitForAsker(until)
	}
	return false, nil
}

func (a *Agent) isBarren(f *flight) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return f.barren
}

// stuck tells f's waiters what stands in the way.
func (a *Agent) stuck(f *flight, err error) {
	f.progress.stuck(err)
	a.tellWaiters(f, reasonWaiting, f.progress.waiting().Progress)
	a.log.Debug("flight waits", zap.Stringer("revision", f.key.revision()), zap.Error(err))
}

// attempt fetches what is missing of f from sources, asking the Hub, if it is one of them,
// with one credential.
func (a *Agent) attempt(f *flight, sources []fetcher.Source, by asker) error {
	ctx, may, stop := f.ctx, func() error { return nil }, func() {}
	if by.node {
		ctx, may, stop = a.keepLooking(f)
	}
	defer stop()
	chain := make([]fetcher.Source, len(sources))
	for i, s := range sources {
		chain[i] = flightSource{s, func(file fetcher.File) error {
			f.progress.sources.ask(s.Name(), file)
			if s.Name() != f.hub {
				return nil
			}
			return may()
		}}
	}
	f.progress.restart()
	return a.cfg.Engine.Fetch(ctx, fetcher.Job{
		Sources:    chain,
		Revision:   f.key.revision(),
		Files:      f.selected.Files,
		Credential: by.cred,
		Sink:       &sink{agent: a, origin: f.key.origin, progress: f.progress},
		Progress: func(source string, delta int64) {
			f.progress.fetch(source, delta)
			if delta > 0 {
				a.metrics.fetchedBytes.WithLabelValues(source).Add(float64(delta))
			}
		},
		Passed: func(p fetcher.Passed) { a.passedOver(f, p) },
		Failing: func(err error) { // for good: it still drains, and nobody may join it
			if len(sources) == len(f.sources) && f.ends(err) {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.forgetFlight(f)
			}
		},
	})
}

// flightSource is a Source that tells a Flight which file it is asked for, before it is.
type flightSource struct {
	fetcher.Source
	asked func(fetcher.File) error
}

func (s flightSource) Open(ctx context.Context, rev fetcher.Revision, f fetcher.File, cred fetcher.Secret) (fetcher.Object, error) {
	if err := s.asked(f); err != nil {
		return nil, err
	}
	return s.Source.Open(ctx, rev, f, cred)
}

// nextAsker chooses whose credential f asks the Hub with next: of any waiter's, the first
// that was not turned away and does not rest. If there is none, it says until when the
// first rests, zero if none does. A waiter with none left is turned away, unless another
// Source may yet give all that the operator opened to it; without a waiter it fails.
func (a *Agent) nextAsker(f *flight) (by asker, asks bool, rest time.Time, err error) {
	node := a.node.get()
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-f.joined: // who has joined is looked at now
	default:
	}
	if f.hub == "" {
		return asker{}, true, time.Time{}, nil // whoever it is: no other Source has any use for it
	}
	err = context.Canceled
	spared := false
	for v, w := range f.waiters {
		left := slices.DeleteFunc(f.askers(w, node), func(by asker) bool { return f.denied[by.cred] != nil })
		for _, by := range left {
			until := f.rests[by.cred]
			if !until.After(now) {
				return by, true, time.Time{}, nil
			}
			if rest.IsZero() || until.Before(rest) {
				rest = until
			}
		}
		if len(left) == 0 && w.opened && len(f.others) > 0 && !f.barren {
			spared = true
		} else if len(left) == 0 {
			w.err, err = f.denied[w.token], f.denied[w.token]
			close(w.failed)
			delete(f.waiters, v)
		}
	}
	if spared || !rest.IsZero() {
		return asker{}, false, rest, nil
	}
	a.forgetFlight(f)
	return asker{}, false, time.Time{}, err
}

// askers says with which credentials to ask for w, in turn: where anyone may read, with
// the node's first, whose rate limit is higher. What a local Authority lists is read as the
// node from no Hub: it would show what only some may read to whom that list was opened.
// a.mu is held.
func (f *flight) askers(w *waiter, token fetcher.Secret) []asker {
	var node []asker
	if !token.IsZero() && !f.isLocal() {
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
// the node's token, on one that was not sent, or on what another Authority lists, says
// nothing of anybody's access.
func (a *Agent) turnAway(f *flight, by asker, err error) error {
	a.mu.Lock()
	f.denied[by.cred] = err
	a.mu.Unlock()
	if by.node {
		a.node.failed(by.cred, err)
		return nil
	}
	if !fetcher.Denied(err) || f.isLocal() {
		return nil
	}
	return a.access.withdraw(by.cred, f.key.origin.Repo)
}
