package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// flightKey names a Snapshot: a Revision of an Origin, and the Filter that selects its
// files.
type flightKey struct {
	origin  store.Origin
	commit  fetcher.Commit
	filter  fetcher.Filter
	listing string // which of a local Authority's Manifests; "" for the Hub's
}

func (k flightKey) revision() fetcher.Revision {
	return fetcher.Revision{Repo: k.origin.Repo, Commit: k.commit}
}

// flight is the one materialisation of a Snapshot that all its waiting Volumes
// share.
type flight struct {
	key      flightKey
	listed   *fetcher.Manifest // all files
	progress *progress
	sources  []fetcher.Source // in the order in which they are asked
	others   []fetcher.Source // those that are not the Hub
	hub      string           // the Hub's Name, "" if it is none of the Sources
	ctx      context.Context
	cancel   context.CancelFunc
	done     chan struct{} // closed when it has ended

	// Set before done is closed.
	selected *fetcher.Manifest // by the key's Filter
	err      error

	// Guarded by Agent.mu.
	public  bool // bytes may be asked for anonymously
	waiters map[store.Volume]*waiter
	denied  map[fetcher.Secret]error     // credentials turned away since their Volume last joined
	rests   map[fetcher.Secret]time.Time // credentials done without until then
	joined  chan struct{}                // holds one once a Volume has joined: its credential may not rest
	barren  bool                         // time does not mend that others do not give all of it
}

// ErrNoSource: no Source is asked for what this Authority lists.
var ErrNoSource = errors.New("no source is configured for it: the Hub is not asked, and there is no other")

// newFlight makes a Flight that has not begun.
func (a *Agent) newFlight(key flightKey, listed *fetcher.Manifest) *flight {
	f := &flight{
		key:     key,
		listed:  listed,
		sources: a.sourcesFor(key.origin),
		done:    make(chan struct{}),
		waiters: map[store.Volume]*waiter{},
		denied:  map[fetcher.Secret]error{},
		rests:   map[fetcher.Secret]time.Time{},
		joined:  make(chan struct{}, 1),
	}
	for _, s := range f.sources {
		if a.cfg.Hub != nil && s.Name() == a.cfg.Hub.Name() {
			f.hub = s.Name()
		} else {
			f.others = append(f.others, s)
		}
	}
	f.progress = newProgress(key.revision(), f.sources)
	f.ctx, f.cancel = context.WithCancel(a.ctx)
	return f
}

// isLocal reports whether the Manifest is another Authority's than the Hub's: then the Hub
// is one of the Sources, and no judge of who may have what.
func (f *flight) isLocal() bool { return f.key.origin.Authority != "" }

// waiter is a Volume that waits for a flight, from its first call until Release or
// until it has not called for Config.ForgetAfter.
type waiter struct {
	token    fetcher.Secret
	pod      Pod
	opened   bool // by an operator's rule
	calls    int  // now waiting
	lastCall time.Time
	failed   chan struct{} // closed when this waiter alone is turned away
	err      error         // set before failed is closed
}

// fly waits for the Snapshot that g grants, and returns its Manifest and the bytes fetched
// for it.
func (a *Agent) fly(ctx context.Context, req Request, g grant) (selected *fetcher.Manifest, fetched int64, err error) {
	f, w, err := a.join(ctx, req, g)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		w.calls--
		w.lastCall = time.Now()
	}()
	if !a.waitFor(ctx, f, w, req.Pod) {
		return nil, 0, f.progress.waiting()
	}
	select {
	case <-w.failed: // its own verdict comes before the Flight's
		return nil, 0, w.err
	default:
		return f.selected, f.progress.fetchedBytes(), f.err
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
	key := flightKey{g.origin, g.commit, req.Filter, g.listing}
	f := a.flights[key]
	if f == nil {
		f = a.newFlight(key, g.manifest)
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
	f.barren = false
	w := f.waiters[req.Volume]
	if w == nil {
		w = &waiter{failed: make(chan struct{})}
		f.waiters[req.Volume] = w
	}
	w.token, w.pod, w.opened = req.Token, req.Pod, g.opened
	w.calls++
	select {
	case f.joined <- struct{}{}:
	default:
	}
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
	if f.selected, f.err = a.choose(f); f.err == nil {
		f.err = a.check(a.bring(f))
	}
	a.mu.Lock()
	a.forgetFlight(f)
	f.cancel()
	close(f.done)
	a.mu.Unlock()
	a.metrics.flightSeconds.WithLabelValues(flightResult(f.err)).Observe(time.Since(started).Seconds())
	log := a.log.With(zap.Stringer("revision", f.key.revision()), zap.Int64("fetched_bytes", f.progress.fetchedBytes()),
		zap.Duration("took", time.Since(started)))
	if f.err != nil {
		log.Warn("flight ended without its snapshot", zap.Error(f.err))
		return
	}
	log.Info("snapshot complete", zap.Any("bytes_by_source", f.progress.sources.given()))
	a.summarise(f)
}

// choose selects f's files: once for all its waiters, in f's own time, since it may take
// longer than their calls.
func (a *Agent) choose(f *flight) (*fetcher.Manifest, error) {
	selected, err := a.match(f)
	if err != nil {
		return nil, err
	}
	if len(selected.Files) == 0 {
		return nil, fmt.Errorf("%s: %w of its %d", f.listed.Revision, ErrNothingSelected, len(f.listed.Files))
	}
	f.progress.list(selected.Bytes())
	return selected, nil
}

// What patterns take of the processors, which hash everybody's bytes too: anybody's are
// matched for a moment, and only a few Flights' for longer than that.
const (
	matchMoment = 100 * time.Millisecond
	matchPlaces = 2
)

// match is choose's selection itself.
func (a *Agent) match(f *flight) (*fetcher.Manifest, error) {
	moment, cancel := context.WithTimeout(f.ctx, matchMoment)
	defer cancel()
	selected, err := f.listed.Select(moment, f.key.filter)
	if err == nil || moment.Err() == nil {
		return selected, err
	}
	select {
	case a.matching <- struct{}{}:
		defer func() { <-a.matching }()
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
	return f.listed.Select(f.ctx, f.key.filter)
}
