package agent

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// flightKey names a Snapshot: a Revision and the Filter that selects its files.
type flightKey struct {
	rev    fetcher.Revision
	filter fetcher.Filter
}

// flight is the one materialisation of a Snapshot that all its waiting Volumes
// share.
type flight struct {
	key      flightKey
	manifest *fetcher.Manifest
	progress *progress
	ctx      context.Context
	cancel   context.CancelFunc
	done     chan struct{} // closed when it has ended
	err      error         // set before done is closed

	// Guarded by Agent.mu.
	public  bool // bytes may be asked for anonymously
	waiters map[store.Volume]*waiter
	denied  map[fetcher.Secret]error // credentials turned away since their Volume last joined
}

// waiter is a Volume that waits for a flight, from its first call until Release or
// until it has not called for Config.ForgetAfter.
type waiter struct {
	token    fetcher.Secret
	pod      Pod
	calls    int // now waiting
	lastCall time.Time
	failed   chan struct{} // closed when this waiter alone is turned away
	err      error         // set before failed is closed
}

// fly waits for the Snapshot that g grants, and returns the bytes fetched for it.
func (a *Agent) fly(ctx context.Context, req Request, g grant) (fetched int64, err error) {
	f, w, err := a.join(ctx, req, g)
	if err != nil {
		return 0, err
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		w.calls--
		w.lastCall = time.Now()
	}()
	if !a.waitFor(ctx, f, w, req.Pod) {
		return 0, f.progress.waiting()
	}
	select {
	case <-w.failed: // its own verdict comes before the Flight's
		return 0, w.err
	default:
		return f.progress.fetchedBytes(), f.err
	}
}

// fetchingEvery is how often a pod is told how far its Snapshot is: kubelet shows it
// only when a call ends, after two minutes.
const fetchingEvery = 10 * time.Second

// waitFor waits until f has ended or w is turned away, and reports whether that came
// before ctx ended. Meanwhile p is told how far f is, unless something stands in its
// way: that f itself tells.
func (a *Agent) waitFor(ctx context.Context, f *flight, w *waiter, p Pod) bool {
	tick := time.NewTicker(fetchingEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.done:
			return true
		case <-w.failed:
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
			if f.progress.flows() {
				a.tell(p, reasonFetching, f.progress.waiting().Progress)
			}
		}
	}
}

// join makes req.Volume a waiter of the Snapshot's flight, starting one if none is
// under way, and of no other. A flight in a.flights is never one that is ending. Calls
// are ended under a.mu, so one that has ended joins nothing.
func (a *Agent) join(ctx context.Context, req Request, g grant) (*flight, *waiter, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	key := flightKey{g.manifest.Revision, req.Filter}
	f := a.flights[key]
	if f == nil {
		f = &flight{
			key:      key,
			manifest: g.manifest,
			progress: newProgress(g.manifest, a.cfg.Source.Name()),
			done:     make(chan struct{}),
			waiters:  map[store.Volume]*waiter{},
			denied:   map[fetcher.Secret]error{},
		}
		f.ctx, f.cancel = context.WithCancel(a.ctx)
		if !a.begin(func() { a.run(f) }) {
			f.cancel()
			return nil, nil, context.Canceled
		}
		a.flights[key] = f
	}
	for _, other := range a.flights { // its Ref has moved since
		if w := other.waiters[req.Volume]; other != f && w != nil && w.calls == 0 {
			a.drop(other, req.Volume)
		}
	}
	if g.public {
		f.public = true
		delete(f.denied, fetcher.Secret{})
	}
	delete(f.denied, req.Token)
	w := f.waiters[req.Volume]
	if w == nil {
		w = &waiter{failed: make(chan struct{})}
		f.waiters[req.Volume] = w
	}
	w.token, w.pod = req.Token, req.Pod
	w.calls++
	return f, w, nil
}

// drop removes v from f's waiters; without waiters f ends. a.mu is held.
func (a *Agent) drop(f *flight, v store.Volume) {
	if _, ok := f.waiters[v]; !ok {
		return
	}
	delete(f.waiters, v)
	if len(f.waiters) == 0 {
		f.cancel()
		a.forgetFlight(f)
	}
}

// forgetFlight makes sure that nobody joins f any more. a.mu is held.
func (a *Agent) forgetFlight(f *flight) {
	if a.flights[f.key] == f {
		delete(a.flights, f.key)
	}
}

// forget drops the Volumes that have not called for too long.
func (a *Agent) forget(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.flights {
		for v, w := range f.waiters {
			if w.calls == 0 && now.Sub(w.lastCall) > a.cfg.ForgetAfter {
				a.drop(f, v)
			}
		}
	}
}

// run brings f's Snapshot, trying for as long as anyone waits and time can mend
// what goes wrong.
func (a *Agent) run(f *flight) {
	started := time.Now()
	f.err = a.check(a.bring(f))
	a.mu.Lock()
	a.forgetFlight(f)
	f.cancel()
	close(f.done)
	a.mu.Unlock()
	a.metrics.flightSeconds.WithLabelValues(flightResult(f.err)).Observe(time.Since(started).Seconds())
	log := a.log.With(zap.Stringer("revision", f.key.rev), zap.Int64("fetched_bytes", f.progress.fetchedBytes()),
		zap.Duration("took", time.Since(started)))
	if f.err != nil {
		log.Warn("flight ended without its snapshot", zap.Error(f.err))
		return
	}
	log.Info("snapshot complete")
}

func (a *Agent) bring(f *flight) error {
	job := fetcher.Job{
		Source:   a.cfg.Source,
		Revision: f.key.rev,
		Files:    f.manifest.Files,
		Sink:     &sink{agent: a, repo: f.key.rev.Repo, progress: f.progress},
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
	}
	for {
		var err error
		if job.Credential, err = a.credential(f); err != nil {
			return err
		}
		f.progress.restart()
		err = a.cfg.Engine.Fetch(f.ctx, job)
		switch {
		case err == nil:
			return nil
		case f.ctx.Err() != nil:
			return f.ctx.Err()
		case fetcher.Denied(err):
			if err := a.turnAway(f, job.Credential, err); err != nil {
				return err
			}
		case passes(err):
			f.progress.stuck(err)
			a.tellWaiters(f)
			a.log.Debug("flight waits", zap.Stringer("revision", f.key.rev), zap.Error(err))
			pause(f.ctx, a.cfg.RetryEvery, err)
		default:
			return err
		}
	}
}

// credential chooses whose credential f asks with next, and turns away the waiters
// that have none left. It fails when no waiter is left.
func (a *Agent) credential(f *flight) (fetcher.Secret, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var last error = context.Canceled
	for v, w := range f.waiters {
		candidates := []fetcher.Secret{w.token}
		if f.public {
			candidates = []fetcher.Secret{{}, w.token}
		}
		for _, cred := range candidates {
			if f.denied[cred] == nil {
				return cred, nil
			}
		}
		w.err, last = f.denied[w.token], f.denied[w.token]
		close(w.failed)
		delete(f.waiters, v)
	}
	a.forgetFlight(f)
	return fetcher.Secret{}, last
}

// turnAway records that cred was denied while f was under way.
func (a *Agent) turnAway(f *flight, cred fetcher.Secret, err error) error {
	a.mu.Lock()
	f.denied[cred] = err
	a.mu.Unlock()
	return a.access.withdraw(cred, f.key.rev.Repo)
}

// tellWaiters puts f's progress on the pods that wait for it.
func (a *Agent) tellWaiters(f *flight) {
	message := f.progress.waiting().Progress
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range f.waiters {
		a.tell(w.pod, reasonWaiting, message)
	}
}
