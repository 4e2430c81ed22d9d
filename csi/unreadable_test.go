package csi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

// nameOf is the name of the pin of the volume id at target.
func nameOf(id, target string) string {
	return strings.TrimPrefix(mount.Source(id, target), mount.SourcePrefix)
}

// publishAs mounts the volume, as an overlay or as a bind.
func (b *bench) publishAs(t *testing.T, id, target string, bind bool) {
	t.Helper()
	b.agent.set(func(a *fakeAgent) { a.acquire = answering(bindReady(bind)) })
	_, err := b.node.NodePublishVolume(t.Context(), publishRequest(id, target))
	must(t, err)
}

// loseContent makes every pin one that cannot be read.
func (b *bench) loseContent() {
	b.agent.set(func(a *fakeAgent) {
		for _, v := range a.pins {
			a.unreadable = append(a.unreadable, nameOf(v.GetId(), v.GetTargetPath()))
		}
		a.pins = nil
	})
}

// witness is a readable pin of a pod's, from which it is seen that kubelet's volumes can
// be.
func (b *bench) witness(t *testing.T, a *fakeAgent) {
	t.Helper()
	a.pin(&agentpb.Volume{Id: "witness", TargetPath: b.target(t, "witness")})
}

func TestAPinThatCannotBeReadIsReleasedOnceNoMountCanBeItsVolume(t *testing.T) {
	bindSub := func(t *testing.T, b *bench, from string) {
		sub := filepath.Join(b.dir, "sub")
		must(t, os.Mkdir(sub, 0o755))
		must(t, unix.Mount(from, sub, "", unix.MS_BIND, ""))
		t.Cleanup(func() { must(t, unix.Unmount(sub, 0)) })
	}
	for name, test := range map[string]struct {
		prepare  func(t *testing.T, b *bench, target string)
		released bool
	}{
		"nothing is mounted": {func(*testing.T, *bench, string) {}, true},
		"its volume is mounted": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
		}, false},
		"a subPath of its volume is mounted": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, false)
			bindSub(t, b, filepath.Join(target, "sub"))
			must(t, b.node.mounter.Unmount(target))
		}, false},
		"the same volume at another target is mounted": {func(t *testing.T, b *bench, _ string) {
			b.publishAs(t, "vol", b.target(t, "pod-2"), false)
			b.agent.set(func(a *fakeAgent) { a.pins = nil })
		}, true},
		"its volume is mounted as a bind": {func(t *testing.T, b *bench, target string) {
			b.publishAs(t, "vol", target, true)
		}, false},
		"another volume is mounted as a bind, and might be it": {func(t *testing.T, b *bench, _ string) {
			b.publishAs(t, "other", b.target(t, "pod-2"), true)
		}, false},
		"a subPath of a bind is mounted": {func(t *testing.T, b *bench, _ string) {
			bindSub(t, b, filepath.Join(b.cfg.CacheDir, testView, "sub"))
		}, false},
		"something else is mounted": {func(t *testing.T, b *bench, _ string) {
			bindSub(t, b, b.dir)
		}, true},
		"an operation on its volume is in flight": {func(t *testing.T, b *bench, target string) {
			if _, ok := b.node.targets.lock(&agentpb.Volume{Id: "vol", TargetPath: target}); !ok {
				t.Fatal("locked")
			}
		}, false},
		"mountinfo cannot be read": {func(_ *testing.T, b *bench, _ string) {
			b.node.mounter = &stuckMounter{blind: true}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			target := b.target(t, "pod-1")
			test.prepare(t, b, target)
			b.agent.set(func(a *fakeAgent) {
				a.pins, a.unreadable = nil, []string{nameOf("vol", target)}
				b.witness(t, a)
			})
			must(t, b.node.reconcile(t.Context()))
			if released := len(b.agent.unreadable) == 0; released != test.released {
				t.Errorf("released: %v, want %v", released, test.released)
			}
			wantCount(t, b.metrics.reconciled, map[bool]float64{true: 1}[test.released])
		})
	}
}

// A process that does not see kubelet's directory sees no mount in it.
func TestAPinThatCannotBeReadIsKeptUnlessKubeletsVolumesCanBeSeen(t *testing.T) {
	for name, test := range map[string]struct {
		targets  func(b *bench) []string // of the readable pins
		released bool
	}{
		"no readable pin":                 {func(*bench) []string { return nil }, false},
		"a readable pin of another place": {func(b *bench) []string { return []string{filepath.Join(b.dir, "kubelet/mount")} }, false},
		"a readable pin that is out of sight": {func(b *bench) []string {
			return []string{filepath.Join(b.dir, "other/pods/pod-2/volumes/kubernetes.io~csi/model/mount")}
		}, false},
		"one in sight, one out of it": {func(b *bench) []string {
			return []string{
				filepath.Join(b.dir, "other/pods/pod-2/volumes/kubernetes.io~csi/model/mount"),
				filepath.Join(b.dir, "kubelet/pods/pod-3/volumes/kubernetes.io~csi/model/mount"),
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			pin := nameOf("vol", b.target(t, "pod-1"))
			b.agent.set(func(a *fakeAgent) {
				a.unreadable = []string{pin}
				for _, target := range test.targets(b) {
					a.pin(&agentpb.Volume{Id: "readable", TargetPath: target})
				}
			})
			must(t, b.node.reconcile(t.Context()))
			if released := len(b.agent.unreadable) == 0; released != test.released {
				t.Errorf("released: %v, want %v", released, test.released)
			}
			told := b.logs.FilterLevelExact(zapcore.WarnLevel).FilterField(zap.String(keyPin, pin)).FilterMessageSnippet("kubelet's directory").Len()
			if told != map[bool]int{false: 1}[test.released] {
				t.Errorf("told %d times", told)
			}
		})
	}
}

func TestANameThatNoPinHasReleasesNothing(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"", "..", "abc", strings.Repeat("A", 64), strings.Repeat("a", 65), strings.Repeat("a", 63) + "\n"} {
		b.agent.set(func(a *fakeAgent) { a.unreadable = []string{name} })
		must(t, b.node.reconcile(t.Context()))
		if b.agent.releases != 0 {
			t.Errorf("%q was released", name)
		}
	}
}

// Otherwise a publish might make the pin anew and mount, between the look at mountinfo
// and the release.
func TestAVolumeIsNotPublishedWhileItsUnreadablePinIsReleased(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	b.agent.set(func(a *fakeAgent) {
		a.unreadable = []string{nameOf("vol", target)}
		b.witness(t, a)
		a.onRelease = func(r *agentpb.ReleaseRequest) {
			if r.GetPin() != nameOf("vol", target) || r.GetVolume() != nil {
				t.Errorf("asked to release %v", r)
			}
			_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
			wantCode(t, err, codes.Aborted)
		}
	})
	must(t, b.node.reconcile(t.Context()))
	b.agent.onRelease = nil
	if len(b.agent.unreadable) != 0 {
		t.Error("not released")
	}
	b.publishAs(t, "vol", target, false)
}
