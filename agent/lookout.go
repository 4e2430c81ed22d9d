package agent

import (
	"context"
	"errors"
	"sync"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// keepLooking calls lookPublic before the node's token first reads content, which may
// tells when, and every ProofFor then, until stop is called. So what other Sources give
// needs no Hub. The context it returns ends by what the first look met, and later by a
// verdict alone: what has begun is not cut for a Hub that cannot be asked.
func (a *Agent) keepLooking(f *flight) (ctx context.Context, may func() error, stop func()) {
	ctx, cancel := context.WithCancelCause(f.ctx)
	var looking sync.WaitGroup
	seen := make(chan struct{})
	look := func() {
		if err := a.lookPublic(ctx, f); err != nil {
			cancel(err)
			return
		}
		close(seen)
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
	}
	begin := sync.OnceFunc(func() { looking.Go(look) })
	may = func() error {
		begin()
		select {
		case <-seen:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return ctx, may, func() { cancel(nil); looking.Wait() }
}

// errAskAgain: what the node's token may be used for is to be found out once more.
var errAskAgain error = &fetcher.UnreachableError{Err: errors.New("to be asked again as anybody")}

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
