package csi

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

const (
	testView   = "views/v1/root"
	testEmpty  = "empty"
	testCommit = "0123456789abcdef0123456789abcdef01234567"
	testToken  = "hf_thisIsTheSecretToken"
)

// fakeAgent pins at once, unless it is told otherwise. It is an agent in nothing but
// its answers.
type fakeAgent struct {
	mu       sync.Mutex // guards everything below
	pins     map[string]*agentpb.Volume
	acquires []*agentpb.AcquireRequest
	releases int
	asked    int // calls of Acquire and Release
	away     bool
	// unreadable are the names of pins that cannot be read.
	unreadable []string
	// onPins, if set, is called with mu held before the pins are listed.
	onPins func()
	// onRelease, if set, is called without mu.
	onRelease func(*agentpb.ReleaseRequest)
	// acquire, if set, answers instead. It is called without mu.
	acquire func(context.Context, *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error)
	// releaseErr is returned by Release after (true) or instead of (false) releasing.
	releaseErr  error
	releaseDone bool
}

var errAway = status.Error(codes.Unavailable, "connection refused")

func pinKey(v *agentpb.Volume) string { return v.GetId() + "\x00" + v.GetTargetPath() }

func ready() *agentpb.AcquireResponse {
	return &agentpb.AcquireResponse{Result: &agentpb.AcquireResponse_Ready{Ready: &agentpb.Ready{
		View: testView, Empty: testEmpty, Commit: testCommit,
	}}}
}

func waitingFor(progress string) *agentpb.AcquireResponse {
	return &agentpb.AcquireResponse{Result: &agentpb.AcquireResponse_Waiting{Waiting: &agentpb.Waiting{Progress: progress}}}
}

func refusing(why agentpb.Refused_Reason, message string) *agentpb.AcquireResponse {
	return &agentpb.AcquireResponse{Result: &agentpb.AcquireResponse_Refused{Refused: &agentpb.Refused{Reason: why, Message: message}}}
}

func (a *fakeAgent) Acquire(ctx context.Context, in *agentpb.AcquireRequest, _ ...grpc.CallOption) (*agentpb.AcquireResponse, error) {
	a.mu.Lock()
	a.asked++
	a.acquires = append(a.acquires, in)
	answer, away := a.acquire, a.away
	a.mu.Unlock()
	if away {
		return nil, errAway
	}
	resp, err := ready(), error(nil)
	if answer != nil {
		resp, err = answer(ctx, in)
	}
	if resp.GetReady() != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.pin(in.GetVolume())
	}
	return resp, err
}

func (a *fakeAgent) pin(v *agentpb.Volume) {
	if a.pins == nil {
		a.pins = map[string]*agentpb.Volume{}
	}
	a.pins[pinKey(v)] = v
}

func (a *fakeAgent) Release(_ context.Context, in *agentpb.ReleaseRequest, _ ...grpc.CallOption) (*agentpb.ReleaseResponse, error) {
	if a.onRelease != nil {
		a.onRelease(in)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.away {
		return nil, errAway
	}
	if a.releaseErr != nil && !a.releaseDone {
		return nil, a.releaseErr
	}
	a.releases++
	if in.GetPin() != "" {
		a.unreadable = slices.DeleteFunc(a.unreadable, func(name string) bool { return name == in.GetPin() })
	} else {
		delete(a.pins, pinKey(in.GetVolume()))
	}
	return &agentpb.ReleaseResponse{}, a.releaseErr
}

func (a *fakeAgent) Pins(context.Context, *agentpb.PinsRequest, ...grpc.CallOption) (*agentpb.PinsResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.onPins != nil {
		a.onPins()
	}
	if a.away {
		return nil, errAway
	}
	return &agentpb.PinsResponse{Volumes: slices.Collect(maps.Values(a.pins)), Unreadable: slices.Clone(a.unreadable)}, nil
}

// set changes the agent under its lock.
func (a *fakeAgent) set(change func(*fakeAgent)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func (a *fakeAgent) pinned() (n int) {
	a.set(func(a *fakeAgent) { n = len(a.pins) })
	return n
}

// bench is a cache directory, a kubelet's directory, an agent, and a server over them.
type bench struct {
	*Server
	dir   string // of everything
	agent *fakeAgent
	cfg   Config
	logs  *observer.ObservedLogs
	reg   *prometheus.Registry
}

// newBench makes a Server that does not run.
func newBench(t *testing.T, change ...func(*Config)) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi") // short: a socket's path is at most 107 bytes
	must(t, err)
	t.Cleanup(func() {
		mounts, _ := filepath.Glob(filepath.Join(dir, "kubelet/pods/*/volumes/kubernetes.io~csi/*/mount"))
		for _, target := range mounts {
			for unix.Unmount(target, unix.MNT_DETACH) == nil {
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, d := range []string{"cache/" + testEmpty, "cache/" + testView, "kubelet/pods", "kubelet/plugins_registry"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "cache", testView, "config.json"), []byte("{}"), 0o444))
	must(t, os.Mkdir(filepath.Join(dir, "cache", testView, "sub"), 0o755))
	core, logs := observer.New(zapcore.DebugLevel)
	b := &bench{dir: dir, agent: &fakeAgent{}, logs: logs, reg: prometheus.NewRegistry()}
	b.cfg = Config{
		Version: "1.2.3", NodeID: "node-1", CacheDir: filepath.Join(dir, "cache"), Socket: filepath.Join(dir, "csi.sock"),
		Agent: b.agent, Log: zap.New(core), Registerer: b.reg,
	}
	for _, f := range change {
		f(&b.cfg)
	}
	b.Server, err = New(b.cfg)
	must(t, err)
	return b
}

// run starts the server, and returns kubelet's end of its socket. stop ends it and
// waits.
func (b *bench) run(t *testing.T) (client spec.NodeClient, stop func() error) {
	t.Helper()
	conn, stop := b.serve(t)
	return spec.NewNodeClient(conn), stop
}

func (b *bench) serve(t *testing.T) (conn *grpc.ClientConn, stop func() error) {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	conn = dial(t, b.cfg.Socket)
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := stop(); err != nil && !t.Failed() {
			t.Errorf("Run = %v", err)
		}
		conn.Close()
		goleak.VerifyNone(t, leaks, goleak.IgnoreAnyFunction( // ginkgo's own, for the life of the process
			"github.com/onsi/ginkgo/v2/internal/interrupt_handler.(*InterruptHandler).registerForInterrupts.func2"))
	})
	return conn, stop
}

// dial waits until somebody serves on socket.
func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	must(t, err)
	return conn
}

// target makes kubelet's directory for a pod's volume, and returns the target in it.
func (b *bench) target(t *testing.T, pod string) string {
	t.Helper()
	dir := filepath.Join(b.dir, "kubelet/pods", pod, "volumes/kubernetes.io~csi/model")
	must(t, os.MkdirAll(dir, 0o750))
	return filepath.Join(dir, "mount")
}

// podGone removes kubelet's directory for the pod, as kubelet does when it is done.
func (b *bench) podGone(t *testing.T, pod string) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(b.dir, "kubelet/pods", pod)))
}

// publishRequest is a good one, as kubelet sends it for an inline volume.
func publishRequest(id, target string) *spec.NodePublishVolumeRequest {
	return &spec.NodePublishVolumeRequest{
		VolumeId: id, TargetPath: target, Readonly: true,
		VolumeCapability: &spec.VolumeCapability{
			AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{}},
			AccessMode: &spec.VolumeCapability_AccessMode{Mode: spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: map[string]string{
			"repo": "Qwen/Qwen3-0.6B", podName: "pod", podNamespace: "default", podUID: "1-2-3", ephemeral: "true",
			kubeletPrefix + "serviceAccount.name": "default",
		},
		Secrets: map[string]string{"HF_TOKEN": testToken},
	}
}

func unpublishRequest(id, target string) *spec.NodeUnpublishVolumeRequest {
	return &spec.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("code %s, want %s: %v", got, want, err)
	}
}

func (b *bench) mounted(t *testing.T, target string) (mount.Info, bool) {
	t.Helper()
	info, found, err := b.node.mounter.Lookup(target)
	must(t, err)
	return info, found
}

func (b *bench) wantMounted(t *testing.T, target string, want bool) {
	t.Helper()
	if info, got := b.mounted(t, target); got != want {
		t.Errorf("%s mounted: %v, want %v (%+v)", target, got, want, info)
	}
}

// faultyMounter makes Mount fail, before or after it happened.
type faultyMounter struct {
	Mounter
	happened bool
}

var errFault = errors.New("injected")

func (m *faultyMounter) Mount(s mount.Spec) error {
	if m.happened {
		if err := m.Mounter.Mount(s); err != nil {
			return err
		}
	}
	return errFault
}
