package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an agent on a cache directory of its own, asking a hubtest.Hub.
type world struct {
	t    testing.TB
	hub  *hubtest.Hub
	dir  string
	cfg  agent.Config        // what a test sets before start
	full bool                // for downloads and listings, however much is free
	safe bool                // no token is sent over http://, which the hub is at
	edit func(*agent.Config) // the last that happens to cfg before it is used; may be nil
	stop func()              // of the running agent; nil if none

	*agent.Agent
	store    *store.Store
	registry *prometheus.Registry
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, hub: hubtest.New(t), dir: t.TempDir()}
	w.cfg.RetryEvery = 10 * time.Millisecond
	t.Cleanup(func() {
		w.halt()
		if err := store.CheckStore(w.dir); err != nil {
			t.Errorf("the store after the test: %v", err)
		}
	})
	return w
}

// start opens the store and runs an agent on it.
func (w *world) start() *world {
	w.t.Helper()
	disk := store.Config{Reserve: -1}
	if w.full {
		disk.Reserve = 1 << 60
	}
	return w.startWith(disk, fetcher.EngineConfig{})
}

// startWith is start with a store and an engine of a test's own making.
func (w *world) startWith(disk store.Config, speed fetcher.EngineConfig) *world {
	w.t.Helper()
	log := zaptest.NewLogger(w.t)
	disk.Dir, disk.Log, speed.Log = w.dir, log, log
	s, err := store.Open(disk)
	must(w.t, err)
	client, err := hub.New(hub.Config{Endpoint: w.hub.URL(), UserAgent: "ballast/test", Log: log, TokensOverHTTP: !w.safe})
	must(w.t, err)
	engine, err := fetcher.NewEngine(speed)
	must(w.t, err)
	cfg := w.cfg
	cfg.Store, cfg.Hub, cfg.Sources, cfg.Engine, cfg.Log = s, client, []fetcher.Source{client}, engine, log
	w.store, w.registry = s, prometheus.NewRegistry()
	cfg.Registerer = w.registry
	if w.edit != nil {
		w.edit(&cfg)
	}
	w.Agent, err = agent.New(cfg)
	must(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Agent.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		client.CloseIdle()
		must(w.t, s.Close())
	}
	return w
}

// halt stops the agent, as a SIGTERM would.
func (w *world) halt() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.halt()
	w.start()
}

// request asks for repo's main in the snapshot layout; edit changes that.
func request(volume, repo string, edit ...func(*agent.Request)) agent.Request {
	r, err := fetcher.ParseRepo(repo)
	if err != nil {
		panic(err)
	}
	req := agent.Request{
		Volume: store.Volume{ID: volume, Target: "/pods/" + volume + "/mount"},
		Repo:   r,
		Ref:    ref("main"),
		Layout: store.Snapshot,
	}
	for _, e := range edit {
		e(&req)
	}
	return req
}

func ref(s string) fetcher.Ref {
	r, err := fetcher.ParseRef(s)
	if err != nil {
		panic(err)
	}
	return r
}

func at(revision string) func(*agent.Request) {
	return func(r *agent.Request) { r.Ref = ref(revision) }
}

func token(s string) func(*agent.Request) {
	return func(r *agent.Request) { r.Token = fetcher.NewSecret(s) }
}

// must acquires or fails the test; a call lasts as long as a test may.
func (w *world) must(req agent.Request) agent.Mountable {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	m, err := w.Acquire(ctx, req)
	must(w.t, err)
	return m
}

// refused acquires and wants a RefusedError that is target.
func (w *world) refused(req agent.Request, target error) *agent.RefusedError {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	m, err := w.Acquire(ctx, req)
	var refused *agent.RefusedError
	if !errors.As(err, &refused) || !errors.Is(err, target) {
		w.t.Fatalf("Acquire = %+v, %v; want a RefusedError that is %q", m, err, target)
	}
	return refused
}

// waits acquires with a call of d and wants a WaitingError.
func (w *world) waits(req agent.Request, d time.Duration) *agent.WaitingError {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	m, err := w.Acquire(ctx, req)
	var waiting *agent.WaitingError
	if !errors.As(err, &waiting) {
		w.t.Fatalf("Acquire = %+v, %v; want a WaitingError", m, err)
	}
	return waiting
}

// acquireAside acquires in the background until stop is called.
func (w *world) acquireAside(req agent.Request) (stop func(), ended <-chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := w.Acquire(ctx, req)
		result <- err
	}()
	return cancel, result
}

// sees checks that m shows exactly want.
func (w *world) sees(m agent.Mountable, want map[string][]byte) {
	w.t.Helper()
	root := filepath.Join(w.dir, m.View)
	got := map[string]bool{}
	must(w.t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, p)
			got[rel] = true
			data, err := os.ReadFile(p)
			if err != nil || !bytes.Equal(data, want[rel]) {
				w.t.Errorf("%s: %d bytes (sha256 %x) differ from the Hub's %d: %v", rel, len(data), sha256.Sum256(data), len(want[rel]), err)
			}
		}
		return err
	}))
	for p := range want {
		if !got[p] {
			w.t.Errorf("%s is missing from the view", p)
		}
	}
}

// contentRequests counts the requests that carried content: GETs of resolve and CDN.
func (w *world) contentRequests() (n int) {
	for _, r := range w.hub.Requests() {
		if r.Method == "GET" && r.Kind != "api" {
			n++
		}
	}
	return n
}

// model is a small repository with all that is odd about real ones, and one file
// of more than one Piece.
func model(seed uint64) map[string][]byte {
	return map[string][]byte{
		"config.json":                      []byte(fmt.Sprintf(`{"seed": %d}`, seed)),
		"model-00001-of-00002.safetensors": noise(seed, fetcher.PieceSize+4321),
		"model-00002-of-00002.safetensors": noise(seed+1, 70_000),
		"onnx/decoder/model.bin":           noise(seed+2, 3000),
		"empty":                            {},
		"copy-of-config.json":              []byte(fmt.Sprintf(`{"seed": %d}`, seed)),
	}
}

// small is model without its big file.
func small(seed uint64) map[string][]byte {
	files := model(seed)
	delete(files, "model-00001-of-00002.safetensors")
	return files
}

func size(files map[string][]byte) (n int64) {
	seen := map[string]bool{}
	for _, data := range files {
		if !seen[string(data)] {
			seen[string(data)] = true
			n += int64(len(data))
		}
	}
	return n
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func contains(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q does not say %q", text, word)
		}
	}
}

// origin is what is on record of a Repo's name.
func (w *world) origin(repo string) store.Origin {
	w.t.Helper()
	r, err := fetcher.ParseRepo(repo)
	must(w.t, err)
	rec, err := w.store.Repo(r)
	must(w.t, err)
	return store.Origin{Repo: r, ID: rec.ID}
}

func (w *world) pins() []store.Volume {
	pins, _ := w.Pins(w.t.Context())
	return pins
}

// until waits for something that happens by itself.
func (w *world) until(what string, happened func() bool) {
	w.t.Helper()
	limit := time.After(20 * time.Second)
	for !happened() {
		select {
		case <-time.After(time.Millisecond):
		case <-limit:
			w.t.Fatalf("it never came to be that %s", what)
		}
	}
}

// before has the agent ask these Sources before the Hub.
func (w *world) before(sources ...*agent.Shelf) *world {
	w.edit = func(c *agent.Config) {
		hub := c.Sources
		c.Sources = nil
		for _, s := range sources {
			c.Sources = append(c.Sources, s)
		}
		c.Sources = append(c.Sources, hub...)
	}
	return w
}

// counters reads one of the agent's metrics, by the values of its labels in the order of
// their names: "mismatch pvc" for {reason="mismatch",source="pvc"}.
func (w *world) counters(name string) map[string]float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	must(w.t, err)
	values := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			values[strings.Join(labels, " ")] = m.GetCounter().GetValue()
		}
	}
	return values
}

// gauge reads one of the agent's metrics.
func (w *world) gauge(name string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	must(w.t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	w.t.Fatalf("no metric %s", name)
	return 0
}

func (w *world) flights() float64 { return w.gauge("ballast_flights") }

func (w *world) waiters() float64 { return w.gauge("ballast_waiting_volumes") }
