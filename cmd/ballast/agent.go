package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/agentrpc"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/unixsock"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
)

// Defaults that the two processes share; the directories are hostPaths on a node. Each
// socket's directory belongs to the process that serves it: whoever may write there
// decides what is at the socket's path.
const (
	defaultCacheDir    = "/var/lib/ballast"
	defaultAgentSocket = "/run/ballast/agent.sock"
	defaultCSIHTTP     = "/run/ballast-csi/http.sock"
	// Nobody's: the mounts of pods with a user namespace map what is below 65536, and
	// kubelet takes the uids from there on, 65536 a pod, for these pods themselves
	// (pkg/kubelet/userns); OpenShift gives namespaces those from 1000000000 on.
	defaultAgentUID = 2000000000
)

type agentFlags struct {
	cacheDir       string
	socket         string
	csiUID         int
	httpAddress    string
	csiHTTPSocket  string
	kube           bool
	node           string
	reserveBytes   int64
	reservePercent float64
	logLevel       string
	core           coreFlags
	hubAPI         hubAPIFlags
}

// coreFlags are what any process that runs an agent can be told.
type coreFlags struct {
	endpoint       string
	tokensOverHTTP bool
	access         accessFlags
	connections    int
	publicFor      time.Duration
	proofFor       time.Duration
	proofGrace     time.Duration
	refMaxAge      time.Duration
}

func agentCommand() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the node's agent: fetch, verify and keep snapshots",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.cacheDir, "cache-dir", defaultCacheDir, "directory of the cache; this process must own it")
	flags.Float64Var(&f.reservePercent, "reserve-percent", 20, "percent of the cache's disk that downloads leave free: more than kubelet's eviction thresholds (15 by default) where it shares the disk")
	flags.Int64Var(&f.reserveBytes, "reserve-bytes", 0, "the same in bytes, in place of the percentage; negative: leave nothing free")
	flags.StringVar(&f.socket, "socket", defaultAgentSocket, "unix socket to serve the CSI driver on")
	flags.IntVar(&f.csiUID, "csi-uid", 0, "uid of the CSI driver's process; besides it only this process's own uid may connect")
	flags.StringVar(&f.httpAddress, "http-address", ":9808", "address for /healthz, /readyz and /metrics")
	flags.StringVar(&f.csiHTTPSocket, "csi-http-socket", defaultCSIHTTP, "unix socket of the CSI driver whose metrics are shown too; empty for none")
	flags.BoolVar(&f.kube, "kube", false, "watch this node's pods through the API server: waits end with their pods, progress becomes events, and hostUsers: false works")
	flags.StringVar(&f.node, "node-name", os.Getenv("NODE_NAME"), "name of the node, for --kube; the default is $NODE_NAME")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	f.core.register(cmd)
	f.hubAPI.register(cmd)
	return cmd
}

// defaultCore is what coreFlags are when nothing is said.
func defaultCore() coreFlags {
	return coreFlags{
		endpoint:    env("HF_ENDPOINT", hub.DefaultEndpoint),
		connections: 8,
		publicFor:   24 * time.Hour,
		proofFor:    10 * time.Minute,
		refMaxAge:   time.Minute,
	}
}

func (f *coreFlags) register(cmd *cobra.Command) {
	flags, d := cmd.Flags(), defaultCore()
	flags.StringVar(&f.endpoint, "hub-endpoint", d.endpoint, "URL of the Hub; the default is $HF_ENDPOINT")
	flags.BoolVar(&f.tokensOverHTTP, "tokens-over-http", false, "send tokens to a Hub whose URL is http://, where anyone on the way can read them")
	f.access.register(cmd)
	flags.IntVar(&f.connections, "connections", d.connections, "connections that fetch at the same time for one snapshot")
	flags.DurationVar(&f.publicFor, "public-for", d.publicFor, "how long a proof that a repository is public holds")
	flags.DurationVar(&f.proofFor, "proof-for", d.proofFor, "how long a proof that a token may read a repository holds")
	flags.DurationVar(&f.proofGrace, "proof-grace", d.proofGrace, "added to --proof-for while the Hub cannot be reached")
	flags.DurationVar(&f.refMaxAge, "ref-max-age", d.refMaxAge, "how long a resolved branch or tag is not asked again")
}

// check refuses durations that would mean something else than they say.
func (f coreFlags) check() error {
	for _, d := range []struct {
		flag         string
		value, least time.Duration
	}{
		{"public-for", f.publicFor, time.Second},
		{"proof-for", f.proofFor, time.Second},
		{"ref-max-age", f.refMaxAge, time.Second},
		{"proof-grace", f.proofGrace, 0},
	} {
		if d.value < d.least {
			return usageError{fmt.Errorf("--%s: %s: must be at least %s", d.flag, d.value, d.least)}
		}
	}
	if f.connections < 1 {
		return usageError{fmt.Errorf("--connections: %d: must be at least 1", f.connections)}
	}
	return nil
}

// newAgent builds the core on an open store; pods may be nil.
func (f coreFlags) newAgent(s *store.Store, pods agent.Pods, reg prometheus.Registerer, log *zap.Logger) (*agent.Agent, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	nodeToken, err := f.access.nodeToken()
	if err != nil {
		return nil, err
	}
	open, err := f.access.openings()
	if err != nil {
		return nil, err
	}
	client, err := hub.New(hub.Config{
		Endpoint: f.endpoint, UserAgent: "ballast/" + version, Connections: f.connections, TokensOverHTTP: f.tokensOverHTTP, Log: log.Named("hub")})
	if err != nil {
		return nil, usageError{fmt.Errorf("--hub-endpoint: %w", err)}
	}
	engine, err := fetcher.NewEngine(fetcher.EngineConfig{Connections: f.connections, Log: log.Named("fetch")})
	if err != nil {
		return nil, usageError{err}
	}
	return agent.New(agent.Config{
		Store:      s,
		Hub:        client,
		Sources:    []fetcher.Source{client},
		Engine:     engine,
		Log:        log.Named("agent"),
		Pods:       pods,
		Registerer: reg,
		NodeToken:  nodeToken,
		Open:       open,
		PublicFor:  f.publicFor,
		ProofFor:   f.proofFor,
		ProofGrace: f.proofGrace,
		RefMaxAge:  f.refMaxAge,
	})
}

func runAgent(ctx context.Context, f agentFlags) (err error) {
	log, err := newLogger(f.logLevel)
	if err != nil {
		return err
	}
	// net/http repeats there what a server sends when nobody asks: that may be the token.
	stdlog.SetOutput(io.Discard)
	if f.reservePercent < 0 || f.reservePercent > 100 {
		return usageError{fmt.Errorf("--reserve-percent: %g: must be from 0 to 100", f.reservePercent)}
	}
	if f.reservePercent == 0 && f.reserveBytes == 0 {
		f.reserveBytes = -1 // leave nothing free
	}
	s, err := store.Open(store.Config{Dir: f.cacheDir, Reserve: f.reserveBytes, ReservePercent: f.reservePercent, Log: log.Named("store")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	// Each knows the other only by what this function ties together.
	var a *agent.Agent
	var pods agent.Pods
	var admit admission
	watch := func(context.Context) error { return nil }
	if f.kube {
		k, err := watchPods(f.node, func(uid string) { a.PodDeleting(uid) }, log.Named("kube"))
		if err != nil {
			return usageError{fmt.Errorf("--kube: %w", err)}
		}
		pods, admit, watch = podWatch{k}, podWatch{k}.admit, k.Run
	}
	reg := newRegistry("agent")
	if a, err = f.core.newAgent(s, pods, reg, log); err != nil {
		return err
	}
	hubAPI, err := f.hubAPI.open(cacheLibrary{a}, admit, log.Named("hubapi"))
	if err != nil {
		return err
	}
	socket, web, err := f.listen(log)
	if err != nil {
		return err
	}
	gatherers := prometheus.Gatherers{reg}
	if f.csiHTTPSocket != "" {
		gatherers = append(gatherers, remoteMetrics(f.csiHTTPSocket))
	}
	log.Info("agent starts", zap.String("version", version), zap.String("cache_dir", f.cacheDir), zap.String("socket", f.socket),
		zap.String("http_address", web.Addr().String()), zap.String("hub_endpoint", f.core.endpoint), zap.Bool("kube", f.kube), zap.String("hub_address", f.hubAPI.address))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return watch(ctx) })
	g.Go(func() error { return agentrpc.Serve(ctx, socket, a) })
	g.Go(func() error { return hubAPI.run(ctx) })
	g.Go(func() error { return serveHTTP(ctx, web, observe(gatherers, log, nil)) })
	err = g.Wait()
	log.Info("agent has stopped", zap.Error(err))
	return err
}

// listen opens the agent's two doors: the socket for the CSI driver, and HTTP.
func (f agentFlags) listen(log *zap.Logger) (socket, web net.Listener, err error) {
	if socket, err = unixsock.Listen(f.socket, log.Named("rpc"), f.csiUID, os.Getuid()); err != nil {
		return nil, nil, fmt.Errorf("--socket: %w", err)
	}
	if web, err = net.Listen("tcp", f.httpAddress); err != nil {
		socket.Close()
		return nil, nil, fmt.Errorf("--http-address: %w", err)
	}
	return socket, web, nil
}
