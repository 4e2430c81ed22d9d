package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Config is what an Agent is made of. Durations left zero take their defaults.
type Config struct {
	Store *store.Store
	// Hub is nil where there is none: then only Authorities say what anything is.
	Hub fetcher.Hub
	// Authorities are the others, in the order in which they are asked where the Hub
	// cannot be, or has no such Repo.
	Authorities []fetcher.Authority
	// Bindings give Repos to one Authority; the first that matches counts.
	Bindings []Binding
	// Sources give bytes, in the order in which they are asked.
	Sources []fetcher.Source
	Engine  *fetcher.Engine
	Log     *zap.Logger
	// Pods tells about the node's pods and takes events for them; nil without
	// access to the Kubernetes API.
	Pods Pods
	// Registerer takes the agent's metrics; nil keeps them to itself.
	Registerer prometheus.Registerer
	// NodeToken gives the token that the operator lent to the node, and is called
	// whenever it could be used; nil if there is none. It asks where anyone may read,
	// for its higher rate limits, and for whom Open names; it opens nothing to others.
	NodeToken func() (fetcher.Secret, error)
	// Open are the operator's rules that authorise without a proof.
	Open []Opening

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
			return fmt.Errorf("a duration of %s: none may be negative", *d.field)
		}
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return nil
}

// Agent hands out Views. Make one with New; its background work is Run's.
type Agent struct {
	cfg    Config
	log    *zap.Logger
	store  *store.Store
	access *access
	node   *nodeToken
	listed manifests
	// standIns and compared are about local Authorities.
	standIns standIns
	compared *comparisons
	// offHubSources are Config.Sources without the Hub.
	offHubSources []fetcher.Source
	metrics       *metrics
	inbound       keyedMutex[blobKey] // one fetch of a Digest through an Origin at a time

	matching chan struct{} // holds one for each Flight whose patterns take long

	ctx    context.Context // ends when Run does: every wait selects on it
	cancel context.CancelFunc
	work   sync.WaitGroup // Flights, questions and calls
	broken chan error     // what makes Run end by itself

	mu        sync.Mutex // guards what follows, and every Flight's waiters
	closed    bool       // nothing new starts
	flights   map[flightKey]*flight
	questions map[askKey]*question
	places    map[string]*places // by namespace
	renewals  map[fetcher.Repo]time.Time
	calls     map[store.Volume]map[*call]struct{}
}

// New checks cfg and makes an Agent; it starts nothing. Acquire works once Run
// runs, and ends its waits when Run is told to stop.
func New(cfg Config) (*Agent, error) {
	if cfg.Store == nil || cfg.Hub == nil && len(cfg.Authorities) == 0 || len(cfg.Sources) == 0 || cfg.Engine == nil || cfg.Log == nil {
		return nil, errors.New("agent: Store, Hub or Authorities, Sources, Engine and Log are needed")
	}
	if err := errors.Join(cfg.setDefaults(), cfg.checkRules()); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a := &Agent{
		cfg:    cfg,
		log:    cfg.Log,
		store:  cfg.Store,
		access: newAccess(cfg),
		node:   &nodeToken{read: cfg.NodeToken, log: cfg.Log},
		listed: manifests{store: cfg.Store},
		offHubSources: slices.DeleteFunc(slices.Clone(cfg.Sources), func(s fetcher.Source) bool {
			return isHub(s, cfg.Hub)
		}),
		flights:   map[flightKey]*flight{},
		questions: map[askKey]*question{},
		places:    map[string]*places{},
		renewals:  map[fetcher.Repo]time.Time{},
		calls:     map[store.Volume]map[*call]struct{}{},
		matching:  make(chan struct{}, matchPlaces),
		broken:    make(chan error, 1),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	var errs [2]error
	a.metrics, errs[0] = newMetrics(cfg.Registerer, a)
	a.compared, errs[1] = newComparisons(cfg)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("agent metrics: %w", err)
	}
	return a, nil
}

// isHub reports whether s is the same object as hub.
func isHub(s fetcher.Source, hub fetcher.Hub) bool {
	return hub != nil && reflect.ValueOf(s).Comparable() && any(s) == any(hub)
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
			a.standIns.prune(time.Now())
			a.forgetRenewals()
			a.compareDue()
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
