package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/agentrpc"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/unixsock"
	"github.com/ballast-csi/ballast/cmd/ballast/settings"
	"github.com/ballast-csi/ballast/csi"
	"github.com/ballast-csi/ballast/csi/mount"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
)

// demoConfig says what the demo is to show, and where.
type demoConfig struct {
	dir  string // an empty directory
	user bool   // in a user namespace: pods get read-only binds
	size modelSize

	// With a repo, its model is used and no Hub is embedded.
	repo     string
	revision string
	endpoint string
	token    fetcher.Secret
	// Whether it may be sent to an http:// endpoint.
	tokensOverHTTP bool
}

// world is what runs: a Hub (or none), a node's agent and its CSI driver, each the
// real thing behind its real socket, and kubelet's part.
type world struct {
	cfg      demoConfig
	ref      fetcher.Ref
	hub      *demoHub // nil: the Hub is elsewhere
	cache    *store.Store
	metrics  *prometheus.Registry
	mounter  csi.Mounter
	agent    agentpb.AgentClient
	kubelet  *kubelet
	repoName fetcher.Repo

	parts  *errgroup.Group
	ctx    context.Context // ends when a part fails
	cancel context.CancelFunc
	undo   []func() error // in order of making
}

const (
	demoRepo = "ballast-demo/noise-0.1b"
	demoLog  = "demo.log" // in the demo's directory
)

func newWorld(ctx context.Context, cfg demoConfig) (_ *world, err error) {
	w := &world{cfg: cfg, metrics: newRegistry("demo")}
	ctx, w.cancel = context.WithCancel(ctx)
	w.parts, w.ctx = errgroup.WithContext(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	log, err := w.openLog()
	if err != nil {
		return nil, err
	}
	embedded := cfg.repo == ""
	if embedded {
		cfg.repo, cfg.revision = demoRepo, "main"
	}
	if w.repoName, err = fetcher.ParseRepo(cfg.repo); err != nil {
		return nil, err
	}
	if w.ref, err = fetcher.ParseRef(cfg.revision); err != nil {
		return nil, err
	}
	if err := os.Mkdir(w.path("run"), 0o700); err != nil {
		return nil, err
	}
	if embedded {
		if err := w.startHub(log.Named("hub-api")); err != nil {
			return nil, err
		}
	}
	if err := w.startAgent(log); err != nil {
		return nil, err
	}
	return w, w.startCSI(log.Named("csi"))
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.cfg.dir}, elem...)...)
}

// openLog keeps what the parts log out of what the demo shows.
func (w *world) openLog() (*zap.Logger, error) {
	f, err := os.OpenFile(w.path(demoLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	w.undo = append(w.undo, f.Close)
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoding.EncodeDuration = zapcore.StringDurationEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.Lock(f), zap.DebugLevel)), nil
}

// openStore opens a cache in the demo's directory; stop checks it.
func (w *world) openStore(name string, log *zap.Logger) (*store.Store, error) {
	s, err := store.Open(store.Config{Dir: w.path(name), Reserve: -1, Log: log})
	if err != nil {
		return nil, err
	}
	w.undo = append(w.undo, s.Close)
	return s, nil
}

func (w *world) startHub(log *zap.Logger) error {
	s, err := w.openStore("hub", log)
	if err != nil {
		return err
	}
	if w.hub, err = newDemoHub(s, w.repoName, w.cfg.size.bytesPerSecond, log); err != nil {
		return err
	}
	w.cfg.endpoint = w.hub.url()
	w.run(w.hub.run)
	return nil
}

func (w *world) startAgent(log *zap.Logger) (err error) {
	if w.cache, err = w.openStore("cache", log.Named("store")); err != nil {
		return err
	}
	c := defaultConfig()
	c.Hub.Endpoint, c.Hub.TokensOverHTTP = w.cfg.endpoint, w.cfg.tokensOverHTTP
	c.Sources = []sourceConfig{{Name: hub.Name, Hub: &struct{}{}}}
	made, err := c.newParts(settings.Defaults(c), log)
	if err != nil {
		return err
	}
	w.undo = append(w.undo, made.close)
	a, err := made.newAgent(w.cache, nil, w.metrics)
	if err != nil {
		return err
	}
	socket, err := unixsock.Listen(w.path("run", "agent.sock"), log.Named("rpc"), os.Getuid())
	if err != nil {
		return err
	}
	w.run(a.Run)
	w.run(func(ctx context.Context) error { return agentrpc.Serve(ctx, socket, a) })
	conn, err := agentrpc.Dial(w.path("run", "agent.sock"), os.Getuid())
	if err != nil {
		return err
	}
	w.undo = append(w.undo, conn.Close)
	w.agent = agentpb.NewAgentClient(conn)
	return nil
}

func (w *world) startCSI(log *zap.Logger) error {
	mounter, err := mount.New(mount.Config{CacheDir: w.cache.Dir()})
	if err != nil {
		return err
	}
	w.mounter = mounter
	if w.cfg.user {
		w.mounter = bindMounter{mounter}
	}
	socket := w.path("run", "csi.sock")
	server, err := csi.New(csi.Config{
		Version:    version,
		NodeID:     "demo-node",
		Socket:     socket,
		Agent:      w.agent,
		Mounter:    w.mounter,
		Log:        log,
		Registerer: w.metrics,
	})
	if err != nil {
		return err
	}
	w.run(server.Run)
	k, err := newKubelet(socket, w.path("pods"), w.cfg.token)
	if err != nil {
		return err
	}
	w.kubelet = k
	w.undo = append(w.undo, k.conn.Close)
	return nil
}

// run adds a part, which ends with the world.
func (w *world) run(part func(context.Context) error) {
	w.parts.Go(func() error { return part(w.ctx) })
}

// stop ends every part, waits for all of them and closes what was opened.
func (w *world) stop() error {
	w.cancel()
	err := w.parts.Wait()
	for i := len(w.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, w.undo[i]())
	}
	w.undo = nil
	return err
}

// fetched returns how many bytes of content this node has had from the Hub: what the
// Hub counted, or, if it is elsewhere, the agent.
func (w *world) fetched() int64 {
	if w.hub != nil {
		return w.hub.served.Load()
	}
	families, err := w.metrics.Gather()
	if err != nil {
		return 0
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != "ballast_fetched_bytes_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue()
		}
	}
	return int64(sum)
}

// manifest returns what ref is, by the agent's record, or nil if it has none yet.
func (w *world) manifest(ref fetcher.Ref) *fetcher.Manifest {
	rec, err := w.cache.Repo(w.repoName)
	if err != nil {
		return nil
	}
	commit, pinned := ref.Commit()
	if !pinned {
		commit = rec.Refs[ref.String()].Commit
	}
	m, err := w.cache.Manifest(store.Origin{Repo: w.repoName, ID: rec.ID}, commit)
	if err != nil {
		return nil
	}
	return m
}

// askHub returns the Hub's own list of the files at the commit that ref was resolved to.
func (w *world) askHub(ctx context.Context) (*fetcher.Manifest, error) {
	recorded := w.manifest(w.ref)
	if recorded == nil {
		return nil, fmt.Errorf("the agent did not record which commit of %s it mounted", w.repoName)
	}
	client, err := hub.New(hub.Config{Endpoint: w.cfg.endpoint, UserAgent: "ballast/" + version, TokensOverHTTP: w.cfg.tokensOverHTTP})
	if err != nil {
		return nil, err
	}
	defer client.CloseIdle()
	return client.Manifest(ctx, recorded.Revision, w.cfg.token)
}

// bindMounter mounts read-only binds: an overlay is not for every kernel's user
// namespaces.
type bindMounter struct{ csi.Mounter }

func (b bindMounter) Mount(s mount.Spec) error {
	s.Bind = true
	return b.Mounter.Mount(s)
}
