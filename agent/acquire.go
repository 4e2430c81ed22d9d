package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Acquire returns a pinned View for req.Volume, waiting for it until ctx ends.
// Then it returns a *WaitingError, and what was waited for goes on: the same
// Volume's next call finds it further along. A *RefusedError is what a person must
// mend. Acquire is idempotent.
func (a *Agent) Acquire(ctx context.Context, req Request) (Mountable, error) {
	ctx, c := a.enter(ctx, req)
	defer a.leave(c, req.Volume)
	waiting := &WaitingError{Progress: fmt.Sprintf("%s: asking %s", req, a.asksFirst(req.Repo))}
	for ctx.Err() == nil && a.ctx.Err() == nil && !waiting.Over {
		m, err := a.acquire(ctx, req)
		err = a.check(err)
		if disputed := new(DisputedError); errors.As(err, &disputed) {
			a.tell(req.Pod, reasonDisputed, disputed.Error())
		}
		var still *WaitingError
		switch {
		case err == nil:
			a.metrics.acquired(m)
			if m.Notice != "" {
				a.tell(req.Pod, reasonStale, m.Notice)
			}
			return m, nil
		case errors.As(err, &still):
			waiting = still
		case ctx.Err() != nil || a.ctx.Err() != nil: // what ended is the wait, not what was asked
		case !passes(err):
			a.metrics.acquires.WithLabelValues(resultRefused).Inc()
			return Mountable{}, refuse(req, err)
		default:
			waiting = &WaitingError{Progress: "waiting: " + err.Error()}
			a.tell(req.Pod, reasonWaiting, waiting.Progress) // kubelet shows it only when the held call ends
			pause(ctx, a.cfg.RetryEvery, err)
		}
	}
	a.metrics.acquires.WithLabelValues(resultWaiting).Inc()
	return Mountable{}, a.ended(c, waiting)
}

// acquire is one try of Acquire.
func (a *Agent) acquire(ctx context.Context, req Request) (Mountable, error) {
	bind, err := a.userNamespace(ctx, req.Pod)
	if err == nil && bind && req.Writable {
		err = ErrWritable
	}
	if err != nil {
		return Mountable{}, err
	}
	g, err := a.authorise(ctx, req.query(), hit)
	if err != nil {
		return Mountable{}, err
	}
	view, pinned, err := a.pinned(ctx, req, g)
	var fetched int64
	if err == nil && !pinned {
		view, fetched, err = a.pin(ctx, req, &g)
	}
	if err != nil {
		return Mountable{}, err
	}
	return Mountable{view.Path, store.EmptyDir, view.Key.Revision, g.notice, fetched, bind}, nil
}

// pinned returns the View that req.Volume has pinned already: a pod keeps the
// Revision it started with, even if its Ref has moved since.
func (a *Agent) pinned(ctx context.Context, req Request, g grant) (store.View, bool, error) {
	view, ok, err := a.store.PinnedView(req.Volume)
	if err != nil || !ok {
		return store.View{}, false, err
	}
	origin, commit := view.Key.Origin(), view.Key.Revision.Commit
	origin.Repo = req.Repo
	if c, pinned := req.Ref.Commit(); pinned {
		commit = c
	}
	view, ok, err = a.store.PinView(ctx, req.view(origin, commit, view.Key.Listing), req.Volume) // refuses if that is another View
	if err == nil && ok {
		err = a.mayKeep(ctx, req.query(), origin, view.Key, g)
	}
	return view, ok, err
}

// mayKeep reports whether q may have what is pinned for it, though what g grants may be of
// another Authority: one is as authorised for what the other said as if that were asked.
func (a *Agent) mayKeep(ctx context.Context, q query, pinned store.Origin, key store.ViewKey, g grant) error {
	switch {
	case pinned.Local() && !a.opened(q.who.Pod, q.repo, pinned.Authority):
		return &NotOpenedError{Authority: pinned.Authority, Namespace: q.who.Pod.Namespace, Repo: q.repo}
	case pinned.Local():
		return a.disputed(pinned, key.Revision.Commit, key.Listing)
	case !g.origin.Local():
		return nil
	}
	k, err := a.known(ctx, q, hit, true)
	if err == nil && !k.allowed() {
		err = cmp.Or(g.hub, fmt.Errorf("%s: %w", q, store.ErrPinned))
	}
	return err
}

// pin pins the View that g grants, making it first if need be. That may take hours: so
// the request is authorised once more before the View is pinned.
func (a *Agent) pin(ctx context.Context, req Request, g *grant) (view store.View, fetched int64, err error) {
	key := req.view(g.origin, g.commit, g.listing)
	view, ok, err := a.store.PinView(ctx, key, req.Volume)
	if ok || err != nil {
		return view, 0, err
	}
	if g.manifest == nil {
		if err := a.again(ctx, req, g, listing); err != nil {
			return view, 0, err
		}
	}
	selected, fetched, err := a.fly(ctx, req, *g)
	if err != nil {
		return view, 0, err
	}
	if g.origin.Local() { // the bytes are here now, which may be what was missing to tell
		if err := cmp.Or(a.judgeStored(ctx, g.origin, g.commit), a.disputed(g.origin, g.commit, g.listing)); err != nil {
			return view, 0, err
		}
	}
	if err := a.store.AssembleView(ctx, key, selected); err != nil {
		return view, 0, err
	}
	if err := a.again(ctx, req, g, hit); err != nil {
		return view, 0, err
	}
	if view, ok, err = a.store.PinView(ctx, key, req.Volume); err == nil && !ok {
		err = fmt.Errorf("view of %s was gone before it could be pinned", key.Revision)
	}
	return view, fetched, err
}

// again authorises req once more for the commit that g granted. Where the proof is still
// fresh it asks no one.
func (a *Agent) again(ctx context.Context, req Request, g *grant, need need) error {
	q := req.query()
	q.ref = g.commit.Ref()
	now, err := a.authorise(ctx, q, need)
	switch changed := err == nil && (now.origin != g.origin || now.listing != g.listing); {
	case g.origin.Local() && (changed || errors.Is(err, fetcher.ErrRevisionNotFound)):
		// So that the bytes need not be brought again for whoever has the word now.
		err = cmp.Or(a.judgeStored(ctx, g.origin, g.commit), error(errOtherWord(req)))
	case changed:
		err = fmt.Errorf("%s: %w", req, store.ErrReplaced)
	}
	if err != nil {
		return err
	}
	now.notice = cmp.Or(g.notice, now.notice)
	*g = now
	return nil
}

// errOtherWord says that what a local Authority said is not what is to be had now: the Hub
// answers again, or it said something else since. It passes: who asks again learns more.
func errOtherWord(req Request) error {
	return &fetcher.UnreachableError{Err: fmt.Errorf("%s: what it is was said anew meanwhile", req)}
}

// Release ends v's waiting and removes its Pin. It is idempotent. If ctx has ended
// when its turn comes, nothing is removed: whoever asked may have asked for something
// else since.
func (a *Agent) Release(ctx context.Context, v store.Volume) error {
	a.mu.Lock()
	for c := range a.calls[v] {
		c.end()
	}
	for _, f := range a.flights {
		a.drop(f, v)
	}
	a.mu.Unlock()
	return a.check(a.store.Unpin(ctx, v))
}

// ReleasePin removes a Pin by its name: one of those that cannot be read.
func (a *Agent) ReleasePin(ctx context.Context, name string) error {
	return a.check(a.store.UnpinName(ctx, name))
}

// Pins lists the Volumes that hold a Pin, and the names of Pins that cannot be read.
func (a *Agent) Pins(context.Context) (volumes []store.Volume, unreadable []string) {
	for _, p := range a.store.Pins() {
		volumes = append(volumes, p.Volume)
	}
	return volumes, a.store.UnreadablePins()
}
