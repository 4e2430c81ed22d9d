package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Config is what an Agent is made of. Durations left zero take their defaults.
type Config struct {
	Store     *store.Store
	Authority fetcher.Authority
	Source    fetcher.Source
	Engine    *fetcher.Engine
	Log       *zap.Logger
	// Pods tells about the node's pods and takes events for them; nil without
	// access to the Kubernetes API.
	Pods Pods
	// Registerer takes the agent's metrics; nil keeps them to itself.
	Registerer prometheus.Registerer

	// PublicFor is how long an anonymous proof of access holds (24 h).
	PublicFor time.Duration
	// ProofFor is how long a credential's proof of access holds (10 min).
	ProofFor time.Duration
	// ProofGrace is added to ProofFor while the Hub cannot be reached (0).
	ProofGrace time.Duration
	// RefMaxAge is how long a resolved Ref is not asked again (60 s).
	RefMaxAge time.Duration
	// RetryEvery is the pause after a failure that time can mend (2 s).
	RetryEvery time.Duration
	// ForgetAfter is how long a Volume waits without a call (10 min): kubelet's
	// longest silence is 122 s.
	ForgetAfter time.Duration
}

func (c *Config) setDefaults() error {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.PublicFor, 24 * time.Hour},
		{&c.ProofFor, 10 * time.Minute},
		{&c.RefMaxAge, time.Minute},
		{&c.RetryEvery, 2 * time.Second},
		{&c.ForgetAfter, 10 * time.Minute},
		{&c.ProofGrace, 0},
	} {
		if *d.field < 0 {
			return fmt.Errorf("agent: a duration of %s: none may be negative", *d.field)
		}
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return nil
}

// Agent hands out Views. Make one with New; its background work is Run's.
type Agent struct {
	cfg     Config
	log     *zap.Logger
	store   *store.Store
	access  *access
	metrics *metrics
	inbound keyedMutex[blobKey] // one fetch of a Digest through a Repo at a time

	ctx    context.Context // ends when Run does: every wait selects on it
	cancel context.CancelFunc
	work   sync.WaitGroup // Flights, questions and calls
	broken chan error     // what makes Run end by itself

	mu        sync.Mutex // guards what follows, and every Flight's waiters
	closed    bool       // nothing new starts
	flights   map[flightKey]*flight
	questions map[askKey]*question
	calls     map[store.Volume]map[*call]struct{}
}

// New checks cfg and makes an Agent; it starts nothing. Acquire works once Run
// runs, and ends its waits when Run is told to stop.
func New(cfg Config) (*Agent, error) {
	if cfg.Store == nil || cfg.Authority == nil || cfg.Source == nil || cfg.Engine == nil || cfg.Log == nil {
		return nil, errors.New("agent: Store, Authority, Source, Engine and Log are needed")
	}
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg:       cfg,
		log:       cfg.Log,
		store:     cfg.Store,
		access:    newAccess(cfg),
		flights:   map[flightKey]*flight{},
		questions: map[askKey]*question{},
		calls:     map[store.Volume]map[*call]struct{}{},
		broken:    make(chan error, 1),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	m, err := newMetrics(cfg.Registerer, a)
	if err != nil {
		return nil, fmt.Errorf("agent metrics: %w", err)
	}
	a.metrics = m
	return a, nil
}

// Run does the agent's background work until ctx ends, and then returns nil: it has
// ended every call and stopped every Flight (their Ingests stay for resume), so the
// Store may be closed. It returns an error when the state of the cache on disk is no
// longer known: the process should end, and find out by starting again.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer a.work.Wait()
	tick := time.NewTicker(min(30*time.Second, a.cfg.ForgetAfter))
	defer tick.Stop()
	clean := time.NewTicker(time.Hour)
	defer clean.Stop()
	for {
		select {
		case <-clean.C:
			if err := a.check(a.store.DropStaleIngests(store.StaleAfter)); err != nil {
				a.log.Warn("ingests that nobody resumes were not removed", zap.Error(err))
			}
			continue
		case <-tick.C:
			a.forget(time.Now())
			a.access.prune(time.Now())
			continue
		case err = <-a.broken:
		case <-ctx.Done():
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.closed = true
		a.cancel() // together: what cannot begin any more finds the context ended
		return err
	}
}

// check looks at an error of the store's for one after which nothing can go on.
func (a *Agent) check(err error) error {
	if errors.Is(err, store.ErrUnknownState) {
		select {
		case a.broken <- err:
		default:
		}
	}
	return err
}

// Acquire returns a pinned View for req.Volume, waiting for it until ctx ends.
// Then it returns a *WaitingError, and what was waited for goes on: the same
// Volume's next call finds it further along. A *RefusedError is what a person must
// mend. Acquire is idempotent.
func (a *Agent) Acquire(ctx context.Context, req Request) (Mountable, error) {
	ctx, c := a.enter(ctx, req)
	defer a.leave(c, req.Volume)
	waiting := &WaitingError{Progress: fmt.Sprintf("%s: asking %s", req, a.cfg.Authority.Name())}
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
	g, err := a.authorise(ctx, req)
	if err != nil {
		return Mountable{}, err
	}
	bind, err := a.userNamespace(ctx, req.Pod)
	if err != nil {
		return Mountable{}, err
	}
	view, pinned, err := a.pinned(ctx, req)
	var fetched int64
	if err == nil && !pinned {
		view, fetched, err = a.pin(ctx, req, g)
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
	want := store.ViewKey{Revision: fetcher.Revision{Repo: req.Repo, Commit: view.Key.Revision.Commit}, Ref: req.Ref, Filter: req.Filter, Layout: req.Layout}
	if commit, pinned := req.Ref.Commit(); pinned {
		want.Revision.Commit = commit
	}
	return a.store.PinView(ctx, want, req.Volume) // refuses if that is another View
}

// pin pins the View that g grants, making it first if need be.
func (a *Agent) pin(ctx context.Context, req Request, g grant) (view store.View, fetched int64, err error) {
	key := store.ViewKey{Revision: g.manifest.Revision, Ref: req.Ref, Filter: req.Filter, Layout: req.Layout}
	view, ok, err := a.store.PinView(ctx, key, req.Volume)
	if ok || err != nil {
		return view, 0, err
	}
	if fetched, err = a.fly(ctx, req, g); err != nil {
		return view, 0, err
	}
	if err := a.store.AssembleView(ctx, key, g.manifest); err != nil {
		return view, 0, err
	}
	if view, ok, err = a.store.PinView(ctx, key, req.Volume); err == nil && !ok {
		err = fmt.Errorf("view of %s was gone before it could be pinned", key.Revision)
	}
	return view, fetched, err
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
