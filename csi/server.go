package csi

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/unixsock"
	"github.com/ballast-csi/ballast/csi/mount"
)

// Agent is what csi asks of the agent. agentpb.AgentClient satisfies it, and so does
// agentrpc's in-process adaptor. An error means that the agent could not be asked.
type Agent interface {
	Acquire(ctx context.Context, in *agentpb.AcquireRequest, opts ...grpc.CallOption) (*agentpb.AcquireResponse, error)
	Release(ctx context.Context, in *agentpb.ReleaseRequest, opts ...grpc.CallOption) (*agentpb.ReleaseResponse, error)
	Pins(ctx context.Context, in *agentpb.PinsRequest, opts ...grpc.CallOption) (*agentpb.PinsResponse, error)
}

// Mounter is what csi asks of the kernel. *mount.Mounter satisfies it.
type Mounter interface {
	Mount(mount.Spec) error
	Unmount(target string) error
	Lookup(target string) (mount.Info, bool, error)
	// Mounts returns every mount that may show something of the cache.
	Mounts() ([]mount.Info, error)
}

// Config is what a Server is made of.
type Config struct {
	Driver   string // the CSIDriver's name; "csi.ballast.dev" by default
	Version  string // what GetPluginInfo says
	NodeID   string // the node's name
	CacheDir string // the cache directory as this process sees it; not needed with Mounter
	Socket   string // where to listen; at most 107 bytes, its directory exists

	// RegistrationDir is kubelet's plugins_registry as this process sees it, and
	// KubeletSocketPath is Socket as kubelet sees it. Both empty: no registration.
	RegistrationDir, KubeletSocketPath string

	Agent          Agent
	Mounter        Mounter // mount.New on CacheDir by default
	Log            *zap.Logger
	Registerer     prometheus.Registerer // a registry of its own by default
	ReconcileEvery time.Duration         // 10 min by default
}

// DefaultDriver is the CSIDriver's name.
const DefaultDriver = "csi.ballast.dev"

// driverName is the CSI specification's rule for a plugin's name (GetPluginInfo).
var driverName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)

// Server is the CSI driver of one node.
type Server struct {
	cfg     Config
	node    *node
	log     *zap.Logger
	metrics *metrics

	ran        atomic.Bool // Run was called
	registered atomic.Bool // kubelet said so
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Server, error) {
	if err := complete(&cfg); err != nil {
		return nil, fmt.Errorf("csi: %w", err)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("csi: register metrics: %w", err)
	}
	cfg.Agent = guarded{cfg.Agent}
	return &Server{cfg: cfg, node: newNode(cfg, m), log: cfg.Log, metrics: m}, nil
}

// complete fills in the defaults and checks the rest.
func complete(cfg *Config) error {
	if cfg.Driver == "" {
		cfg.Driver = DefaultDriver
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	if cfg.ReconcileEvery == 0 {
		cfg.ReconcileEvery = 10 * time.Minute
	}
	switch {
	case !driverName.MatchString(cfg.Driver):
		return fmt.Errorf("driver name %q: must be at most 63 letters, digits, '-' and '.', beginning and ending with a letter or digit", cfg.Driver)
	case cfg.NodeID == "":
		return errors.New("the node's name is missing")
	case cfg.Agent == nil:
		return errors.New("there is no agent to ask")
	case cfg.ReconcileEvery < 0:
		return fmt.Errorf("reconcile every %s: must be positive", cfg.ReconcileEvery)
	case (cfg.RegistrationDir == "") != (cfg.KubeletSocketPath == ""):
		return errors.New("registration needs both kubelet's registration directory and the socket's path as kubelet sees it")
	}
	if cfg.Mounter == nil {
		m, err := mount.New(mount.Config{CacheDir: cfg.CacheDir})
		if err != nil {
			return err
		}
		cfg.Mounter = m
	}
	if err := unixsock.CheckPath(cfg.Socket); err != nil {
		return err
	}
	if cfg.RegistrationDir != "" {
		return unixsock.CheckPath(registrationSocket(*cfg))
	}
	return nil
}

func registrationSocket(cfg Config) string {
	return filepath.Join(cfg.RegistrationDir, cfg.Driver+"-reg.sock")
}

// errRan says that a Server was used twice.
var errRan = errors.New("csi: Run was called before")

const (
	// drain is how long a call that is mounting may take to end when the server stops.
	drain = 5 * time.Second
	// handshake is how long a connection may stay silent: stopping waits for it.
	handshake = time.Second
)

// Run serves until ctx ends, and then returns nil: every wait ends at once, mounts
// stay. It returns an error if it cannot listen, if kubelet refuses the driver, or if
// it was called before. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errRan
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	server := grpc.NewServer(grpc.UnaryInterceptor(s.observe), grpc.ConnectionTimeout(handshake))
	spec.RegisterIdentityServer(server, &identity{name: s.cfg.Driver, version: s.cfg.Version})
	spec.RegisterNodeServer(server, s.node)
	service, err := serve(server, s.cfg.Socket, fail)
	if err != nil {
		return fmt.Errorf("csi: %w", err)
	}
	defer service.stop()
	defer s.node.stop() // before service.stop, which waits for the calls that this ends

	if s.cfg.RegistrationDir != "" {
		// Second: kubelet calls the service as soon as it sees this socket.
		server := grpc.NewServer(grpc.ConnectionTimeout(handshake))
		registration.RegisterRegistrationServer(server, &registrar{
			info: &registration.PluginInfo{
				Type: registration.CSIPlugin, Name: s.cfg.Driver,
				Endpoint: s.cfg.KubeletSocketPath, SupportedVersions: []string{"1.0.0"},
			},
			log: s.log, registered: &s.registered, fail: fail,
		})
		registry, err := serve(server, registrationSocket(s.cfg), fail)
		if err != nil {
			return fmt.Errorf("csi: register with kubelet: %w", err)
		}
		defer registry.stop()
	}
	s.log.Info("serving", zap.String("driver", s.cfg.Driver), zap.String("socket", s.cfg.Socket))
	s.node.reconcileUntil(ctx, s.cfg.ReconcileEvery)
	s.node.stop()
	// reconcileUntil returns when ctx has ended. An end that nobody but us asked for
	// has a cause of ours.
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("csi: %w", cause)
	}
	return nil
}
