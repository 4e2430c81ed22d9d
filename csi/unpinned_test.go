package csi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

func wantCount(t *testing.T, c prometheus.Collector, want float64) {
	t.Helper()
	if got := testutil.ToFloat64(c); got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func TestAMountWithoutItsPinIsToldLoudly(t *testing.T) {
	// forget makes the agent lose every pin.
	forget := func(b *bench) { b.agent.set(func(a *fakeAgent) { a.pins = nil }) }
	for name, test := range map[string]struct {
		prepare func(t *testing.T, b *bench, target string)
		told    float64
	}{
		"nothing is mounted":         {func(*testing.T, *bench, string) {}, 0},
		"mounted and pinned":         {func(t *testing.T, b *bench, target string) { b.publishAs(t, "vol", target, false) }, 0},
		"a bind, mounted and pinned": {func(t *testing.T, b *bench, target string) { b.publishAs(t, "vol", target, true) }, 0},
		"the pin is lost": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
			forget(b)
		}, 1},
		"the pin of a bind is lost": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, true)
			forget(b)
		}, 1},
		"two are lost, one mounted twice": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
			b.publishAs(t, "other", b.target(t, "pod-2"), false)
			sub := filepath.Join(b.dir, "sub")
			must(t, os.Mkdir(sub, 0o755))
			must(t, unix.Mount(filepath.Join(target, "sub"), sub, "", unix.MS_BIND, ""))
			t.Cleanup(func() { must(t, unix.Unmount(sub, 0)) })
			forget(b)
		}, 2},
		"another volume's pin is there": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
			b.agent.set(func(a *fakeAgent) {
				a.pins = nil
				a.pin(&agentpb.Volume{Id: "other", TargetPath: target})
			})
		}, 1},
		"the pin is there, and cannot be read": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
			b.loseContent()
		}, 0},
		"a pin that cannot be read may be the bind's": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, true)
			b.loseContent()
		}, 0},
		"an operation is in flight": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
			forget(b)
			b.node.targets.lock(&agentpb.Volume{Id: "vol", TargetPath: target})
		}, 0},
		"an operation on a bind is in flight": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, true)
			forget(b)
			b.node.targets.lock(&agentpb.Volume{Id: "vol", TargetPath: target})
		}, 0},
		"published after the pins were listed": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
			pins, asked := b.agent.pins, 0
			b.agent.pins = nil
			b.agent.onPins = func() {
				if asked++; asked == 2 {
					b.agent.pins = pins
				}
			}
		}, 0},
		"unmounted after the mounts were listed": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
			forget(b)
			b.node.mounter = &onceMounter{Mounter: b.node.mounter}
		}, 0},
		"a bind through a link, pinned": {func(t *testing.T, b *bench, _ string) {
			must(t, os.Symlink(filepath.Join(b.dir, "kubelet"), filepath.Join(b.dir, "link")))
			b.publishAs(t, "vol", filepath.Join(b.dir, "link/pods/pod-1/volumes/kubernetes.io~csi/model/mount"), true)
		}, 0},
		"a mount that is nothing of ours": {func(t *testing.T, _ *bench, target string) {
			must(t, os.Mkdir(target, 0o755))
			must(t, unix.Mount("tmpfs", target, "tmpfs", 0, ""))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			test.prepare(t, b, b.target(t, "pod-1"))
			must(t, b.node.reconcile(t.Context()))
			wantCount(t, b.metrics.unpinned, test.told)
			if n := b.logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != int(test.told) {
				t.Errorf("%d errors in the log, want %v", n, test.told)
			}
			if b.agent.releases != 0 {
				t.Error("something was released")
			}
		})
	}
}

func TestAMountWithoutItsPinIsForgottenOnceItIsGone(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	b.publishAs(t, "vol", target, false)
	b.agent.set(func(a *fakeAgent) { a.pins = nil })
	must(t, b.node.reconcile(t.Context()))
	wantCount(t, b.metrics.unpinned, 1)
	entry := b.logs.FilterLevelExact(zapcore.ErrorLevel).All()[0].ContextMap()
	if targets, _ := entry["targets"].([]any); len(targets) != 1 || targets[0] != target || entry[keyPin] != nameOf("vol", target) {
		t.Errorf("logged %v", entry)
	}
	if b.logs.FilterMessageSnippet("another install").Len() != 1 {
		t.Error("the log does not say that it may be another install's")
	}
	families, err := b.reg.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == "ballast_csi_mounts_without_pin" && !strings.Contains(f.GetHelp(), "another install") {
			t.Errorf("its help does not say it either: %q", f.GetHelp())
		}
	}
	b.wantMounted(t, target, true)

	_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	must(t, b.node.reconcile(t.Context()))
	wantCount(t, b.metrics.unpinned, 0)
	if _, ok := b.node.targets.lock(&agentpb.Volume{Id: "vol", TargetPath: target}); !ok {
		t.Error("its target is still locked")
	}
}

// onceMounter lists its mounts once, and then none.
type onceMounter struct {
	Mounter
	listed bool
}

func (m *onceMounter) Mounts() ([]mount.Info, error) {
	if m.listed {
		return nil, nil
	}
	m.listed = true
	return m.Mounter.Mounts()
}

func TestAnAgentThatGoesAwayMeanwhileIsAskedAgain(t *testing.T) {
	b := newBench(t)
	b.publishAs(t, "vol", b.target(t, "pod-1"), false)
	asked := 0
	b.agent.set(func(a *fakeAgent) {
		a.pins = nil
		a.onPins = func() {
			asked++
			a.away = asked == 2
		}
	})
	if err := b.node.reconcile(t.Context()); err == nil {
		t.Error("reconcile succeeded though the agent is away")
	}
	must(t, b.node.reconcile(t.Context()))
	wantCount(t, b.metrics.unpinned, 1)
}
