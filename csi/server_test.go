package csi

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/unixsock"
)

func TestIdentityAndNodeSayNoMoreThanTheyDo(t *testing.T) {
	b := newBench(t)
	conn, _ := b.serve(t)
	ctx, identity, node := t.Context(), spec.NewIdentityClient(conn), spec.NewNodeClient(conn)

	info, err := identity.GetPluginInfo(ctx, &spec.GetPluginInfoRequest{})
	if err != nil || info.GetName() != DefaultDriver || info.GetVendorVersion() != "1.2.3" {
		t.Errorf("GetPluginInfo = %v, %v", info, err)
	}
	can, err := identity.GetPluginCapabilities(ctx, &spec.GetPluginCapabilitiesRequest{})
	if err != nil || len(can.GetCapabilities()) != 0 {
		t.Errorf("GetPluginCapabilities = %v, %v", can, err)
	}
	b.agent.set(func(a *fakeAgent) { a.away = true })
	if _, err := identity.Probe(ctx, &spec.ProbeRequest{}); err != nil {
		t.Errorf("Probe without the agent = %v", err)
	}
	nodeCan, err := node.NodeGetCapabilities(ctx, &spec.NodeGetCapabilitiesRequest{})
	if err != nil || len(nodeCan.GetCapabilities()) != 0 {
		t.Errorf("NodeGetCapabilities = %v, %v", nodeCan, err)
	}
	at, err := node.NodeGetInfo(ctx, &spec.NodeGetInfoRequest{})
	if err != nil || at.GetNodeId() != "node-1" || at.GetAccessibleTopology() != nil || at.GetMaxVolumesPerNode() != 0 {
		t.Errorf("NodeGetInfo = %v, %v", at, err)
	}
	_, err = node.NodeStageVolume(ctx, &spec.NodeStageVolumeRequest{})
	wantCode(t, err, codes.Unimplemented)
	_, err = node.NodeGetVolumeStats(ctx, &spec.NodeGetVolumeStatsRequest{})
	wantCode(t, err, codes.Unimplemented)
}

func TestNewRefusesABadConfig(t *testing.T) {
	long := "/" + strings.Repeat("x", unixsock.MaxPath)
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no agent":              {func(c *Config) { c.Agent = nil }, "agent"},
		"no node":               {func(c *Config) { c.NodeID = "" }, "node"},
		"bad driver":            {func(c *Config) { c.Driver = "a/b" }, "driver name"},
		"relative socket":       {func(c *Config) { c.Socket = "csi.sock" }, "absolute"},
		"long socket":           {func(c *Config) { c.Socket = long }, "107"},
		"long registration":     {func(c *Config) { c.RegistrationDir, c.KubeletSocketPath = long[:unixsock.MaxPath-10], "/x" }, "107"},
		"half a registration":   {func(c *Config) { c.RegistrationDir = "/x" }, "registration needs both"},
		"relative cache":        {func(c *Config) { c.CacheDir = "cache" }, "cache directory"},
		"negative reconcilings": {func(c *Config) { c.ReconcileEvery = -1 }, "positive"},
	} {
		cfg := Config{NodeID: "n", CacheDir: "/cache", Socket: "/csi.sock", Agent: &fakeAgent{}}
		if _, err := New(cfg); err != nil {
			t.Fatalf("bad before it is broken: %v", err)
		}
		test.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: New = %v, want %q in it", name, err, test.want)
		}
	}
}

func TestSocketIsTheOwnersFromItsBirthAndGoneAtTheEnd(t *testing.T) {
	b := newBench(t)
	stale, err := net.Listen("unix", b.cfg.Socket)
	must(t, err)
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, stale.Close())

	client, stop := b.run(t)
	_, err = client.NodeGetInfo(t.Context(), &spec.NodeGetInfoRequest{})
	must(t, err)
	info, err := os.Lstat(b.cfg.Socket)
	must(t, err)
	if info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket's mode is %s", info.Mode())
	}
	must(t, stop())
	if _, err := os.Lstat(b.cfg.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the end: %v", err)
	}
	if err := b.Run(t.Context()); !errors.Is(err, errRan) {
		t.Errorf("second Run = %v", err)
	}
}

func TestRunLeavesAloneWhatItDidNotMake(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), drain) // should Run serve after all
	defer cancel()
	b := newBench(t)
	must(t, os.WriteFile(b.cfg.Socket, []byte("precious"), 0o600))
	if err := b.Run(ctx); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("Run on a file = %v", err)
	}
	if got, err := os.ReadFile(b.cfg.Socket); string(got) != "precious" {
		t.Errorf("the file: %q, %v", got, err)
	}

	b = newBench(t)
	client, _ := b.run(t)
	_, err := client.NodeGetInfo(t.Context(), &spec.NodeGetInfoRequest{})
	must(t, err)
	second := newBench(t, func(c *Config) { c.Socket = b.cfg.Socket })
	if err := second.Run(ctx); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("Run beside another = %v", err)
	}
	_, err = client.NodeGetInfo(t.Context(), &spec.NodeGetInfoRequest{})
	must(t, err)

	absent := newBench(t, func(c *Config) { c.Socket = filepath.Join(b.dir, "absent/csi.sock") })
	if err := absent.Run(ctx); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run without the socket's directory = %v", err)
	}
}

func registered(c *Config) {
	c.RegistrationDir = filepath.Join(filepath.Dir(c.Socket), "kubelet/plugins_registry")
	c.KubeletSocketPath = "/var/lib/kubelet/plugins/csi.ballast.dev/csi.sock"
}

func TestRegistersWithKubelet(t *testing.T) {
	b := newBench(t, registered)
	socket := filepath.Join(b.cfg.RegistrationDir, "csi.ballast.dev-reg.sock")
	_, stop := b.run(t)
	conn := dial(t, socket)
	defer conn.Close()
	kubelet := registration.NewRegistrationClient(conn)
	info, err := kubelet.GetInfo(t.Context(), &registration.InfoRequest{})
	must(t, err)
	if info.Type != registration.CSIPlugin || info.Name != DefaultDriver || info.Endpoint != b.cfg.KubeletSocketPath ||
		len(info.SupportedVersions) != 1 || info.SupportedVersions[0] != "1.0.0" {
		t.Errorf("GetInfo = %v", info)
	}
	// kubelet calls as soon as it sees the registration: the service must be there.
	silent, err := net.Dial("unix", b.cfg.Socket)
	if err != nil {
		t.Fatalf("registered, but nobody serves: %v", err)
	}
	defer silent.Close() // stopping must not wait for it
	if err := b.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("Probe before kubelet has registered it = %v", err)
	}
	_, err = kubelet.NotifyRegistrationStatus(t.Context(), &registration.RegistrationStatus{PluginRegistered: true})
	must(t, err)
	if err := b.Probe(t.Context()); err != nil {
		t.Errorf("Probe = %v", err)
	}
	start := time.Now()
	must(t, stop())
	if took := time.Since(start); took > drain {
		t.Errorf("stopping with a silent connection took %s", took)
	}
	if err := b.Probe(t.Context()); err == nil {
		t.Error("Probe of a server that has stopped succeeded")
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("registration socket after the end: %v", err)
	}
}

func TestKubeletsRefusalEndsRun(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	defer func() { goleak.VerifyNone(t, leaks) }()
	b := newBench(t, registered)
	done := make(chan error)
	go func() { done <- b.Run(t.Context()) }()
	conn := dial(t, registrationSocket(b.Server.cfg))
	defer conn.Close()
	_, err := registration.NewRegistrationClient(conn).NotifyRegistrationStatus(t.Context(), &registration.RegistrationStatus{Error: "already registered"})
	must(t, err)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "already registered") {
		t.Errorf("Run = %v", err)
	}
	if n := b.logs.FilterMessage("kubelet refused the driver").Len(); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestStoppingEndsHeldCallsAtOnce(t *testing.T) {
	b := newBench(t, registered)
	held := make(chan struct{})
	b.agent.acquire = func(ctx context.Context, in *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error) {
		close(held)
		return hung(ctx, in)
	}
	client, stop := b.run(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := client.NodePublishVolume(ctx, publishRequest("vol", b.target(t, "pod-1")))
		done <- err
	}()
	<-held
	start := time.Now()
	must(t, stop())
	if took := time.Since(start); took > drain/2 {
		t.Errorf("stopping took %s", took)
	}
	err := <-done
	wantCode(t, err, codes.Unavailable)
	if !strings.Contains(err.Error(), "stopping") {
		t.Errorf("the held call ended with %v", err)
	}
}
