package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/ballast-csi/ballast/agent/store"
)

// Acquire returns a pinned View for req.Volume, waiting for it until ctx ends.
// Then it returns a *WaitingError, and what was waited for goes on: the same
// Volume's next call finds it further along. A *RefusedError is what a person must
// mend. Acquire is idempotent.
func (a *Agent) Acquire(ctx context.Context, req Request) (Mountable, error) {
	ctx, c := a.enter(ctx, req)
	defer a.leave(c, req.Volume)
	waiting := &WaitingError{Progress: fmt.Sprintf("%s: asking %s", req, a.cfg.Hub.Name())}
	for ctx.Err() == nil && a.ctx.Err() == nil && !waiting.Over {
		m, err := a.acquire(ctx, req)
		err = a.check(err)
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
	view, pinned, err := a.pinned(ctx, req)
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
func (a *Agent) pinned(ctx context.Context, req Request) (store.View, bool, error) {
	view, ok, err := a.store.PinnedView(req.Volume)
	if err != nil || !ok {
		return store.View{}, false, err
	}
	origin, commit := store.Origin{Repo: req.Repo, ID: view.Key.RepoID}, view.Key.Revision.Commit
	if c, pinned := req.Ref.Commit(); pinned {
		commit = c
	}
	return a.store.PinView(ctx, req.view(origin, commit), req.Volume) // refuses if that is another View
}

// pin pins the View that g grants, making it first if need be. That may take hours: so
// the request is authorised once more before the View is pinned.
func (a *Agent) pin(ctx context.Context, req Request, g *grant) (view store.View, fetched int64, err error) {
	key := req.view(g.origin, g.commit)
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
	if err == nil && now.origin != g.origin {
		err = fmt.Errorf("%s: %w", req, store.ErrReplaced)
	}
	if err != nil {
		return err
	}
	now.notice = cmp.Or(g.notice, now.notice)
	*g = now
	return nil
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
