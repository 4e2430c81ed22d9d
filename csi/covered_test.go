package csi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

// linkedAndCovered publishes a volume on a target behind a link, and then mounts
// something over the way to it: over the link itself, or over what it leads to.
// uncover takes that away.
func (b *bench) linkedAndCovered(t *testing.T, bind, link bool) (target string, uncover func()) {
	t.Helper()
	real := b.target(t, "pod-1")
	outer := filepath.Join(b.dir, "outer")
	must(t, os.Mkdir(outer, 0o755))
	must(t, os.Symlink(filepath.Join(b.dir, "kubelet"), filepath.Join(outer, "link")))
	rel, err := filepath.Rel(filepath.Join(b.dir, "kubelet"), real)
	must(t, err)
	target = filepath.Join(outer, "link", rel)
	b.publishAs(t, "vol", target, bind)
	cover := filepath.Join(b.dir, "kubelet")
	if link {
		cover = outer
	}
	must(t, unix.Mount("tmpfs", cover, "tmpfs", 0, ""))
	covered := true
	uncover = func() {
		if covered {
			must(t, unix.Unmount(cover, 0))
		}
		covered = false
	}
	t.Cleanup(uncover)
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Fatalf("the target can still be seen: %v", err)
	}
	return target, uncover
}

// wantKeptBecause checks that the last unpublish said why the pin is kept.
func (b *bench) wantKeptBecause(t *testing.T, why string) {
	t.Helper()
	all := b.logs.FilterLevelExact(zapcore.WarnLevel).All()
	if len(all) == 0 {
		t.Errorf("nothing told, want %q", why)
	} else if got, _ := all[len(all)-1].ContextMap()["error"].(string); !strings.Contains(got, why) {
		t.Errorf("told %q, want %q in it", got, why)
	}
}

// Whatever is mounted over kubelet's directory, the volume below is in use.
func TestNoCallReleasesAVolumeThatIsMountedBehindACover(t *testing.T) {
	for name, test := range map[string]struct{ bind, link bool }{
		"overlay, the link can be seen": {false, false},
		"overlay, the link is covered":  {false, true},
		"bind, the link can be seen":    {true, false},
		"bind, the link is covered":     {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			target, uncover := b.linkedAndCovered(t, test.bind, test.link)
			if _, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target)); test.link {
				wantCode(t, err, codes.Unavailable) // the target cannot be made, and it is not final
			} else {
				must(t, err)
			}
			if n := b.agent.pinned(); n != 1 {
				t.Errorf("%d pins after another publish", n)
			}

			_, err := b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
			if test.link {
				must(t, err) // of the target nothing is known any more: only that it must keep its pin
				b.wantKeptBecause(t, "still mounted on "+filepath.Join(b.dir, "kubelet/pods/pod-1"))
			} else {
				wantCode(t, err, codes.Unavailable)
			}
			if n := b.agent.pinned(); n != 1 {
				t.Errorf("%d pins after unpublish", n)
			}
			must(t, b.node.reconcile(t.Context()))
			if n := b.agent.pinned(); n != 1 {
				t.Errorf("%d pins after reconciliation", n)
			}

			uncover()
			must(t, b.node.mounter.Unmount(target))
			b.podGone(t, "pod-1")
			must(t, b.node.reconcile(t.Context()))
			if n := b.agent.pinned(); n != 0 {
				t.Errorf("%d pins of a volume that is gone", n)
			}
		})
	}
}

// With kubelet's directory out of sight (it is not mounted into the CSI driver's pod),
// no mount that can be seen says nothing.
func TestNoCallReleasesAVolumeWhileKubeletsDirectoryIsOutOfSight(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	b.agent.set(func(a *fakeAgent) { a.pin(&agentpb.Volume{Id: "vol", TargetPath: target}) })
	kubelet := filepath.Join(b.dir, "kubelet")
	must(t, os.Rename(kubelet, kubelet+".elsewhere"))
	_, err := b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	b.wantKeptBecause(t, "cannot be seen from here")
	_, err = b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
	wantCode(t, err, codes.Unavailable)
	if n := b.agent.pinned(); n != 1 {
		t.Errorf("%d pins", n)
	}
	must(t, os.Rename(kubelet+".elsewhere", kubelet))
	_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	if n := b.agent.pinned(); n != 0 {
		t.Errorf("%d pins", n)
	}
}

// A pod's other volumes say nothing about this one.
func TestAVolumeIsReleasedWhileOthersOfItsPodAreMounted(t *testing.T) {
	for name, bind := range map[string]bool{"overlay": false, "bind": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			target := b.target(t, "pod-1")
			other := filepath.Join(filepath.Dir(filepath.Dir(target)), "other/mount")
			must(t, os.Mkdir(filepath.Dir(other), 0o755))
			b.publishAs(t, "vol", target, bind)
			b.publishAs(t, "vol", other, bind)
			b.publishAs(t, "vol", b.target(t, "pod-2"), bind)
			_, err := b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
			must(t, err)
			if n := b.agent.pinned(); n != 2 {
				t.Errorf("%d pins", n)
			}
		})
	}
}

func TestASubPathOfABindKeepsItsPin(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	b.publishAs(t, "vol", target, true)
	sub := filepath.Join(b.dir, "kubelet/pods/pod-1/volume-subpaths/model/container/0")
	must(t, os.MkdirAll(sub, 0o755))
	must(t, unix.Mount(filepath.Join(target, "sub"), sub, "", unix.MS_BIND, ""))
	_, err := b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	b.wantKeptBecause(t, "still mounted on "+sub)
	if n := b.agent.pinned(); n != 1 {
		t.Errorf("%d pins", n)
	}
	must(t, unix.Unmount(sub, 0))
	_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	if n := b.agent.pinned(); n != 0 {
		t.Errorf("%d pins", n)
	}
}

// removed takes the View's directory away, as its removal does.
func (b *bench) removed(t *testing.T) {
	t.Helper()
	view := filepath.Join(b.cfg.CacheDir, filepath.Dir(testView))
	must(t, os.Rename(view, view+".partial"))
	must(t, os.RemoveAll(view+".partial"))
}

func TestABindOfAViewThatWasRemovedIsStillTheVolumes(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	b.publishAs(t, "vol", target, true)
	b.removed(t)
	if info, _ := b.mounted(t, target); info.View != "views/v1.partial/root" {
		t.Errorf("mountinfo: %+v", info)
	}
	_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	b.agent.set(func(a *fakeAgent) { a.pins = nil })
	must(t, b.node.reconcile(t.Context()))
	wantCount(t, b.metrics.unpinned, 1)

	_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	b.wantMounted(t, target, false)
	must(t, b.node.reconcile(t.Context()))
	wantCount(t, b.metrics.unpinned, 0)
}

func TestAViewThatIsSetAsideIsAVolumesButNeverMountedAnew(t *testing.T) {
	for _, view := range []string{"views/v1.partial/root", "views/v1-suspect1/root", "views/v1-suspect12/root", "views/v1-suspect1.partial/root"} {
		b := newBench(t)
		target := b.target(t, "pod-1")
		must(t, os.MkdirAll(filepath.Join(b.cfg.CacheDir, view), 0o755))
		b.agent.set(func(a *fakeAgent) {
			r := bindReady(true)
			r.GetReady().View = view
			a.acquire = answering(r)
		})
		_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
		wantCode(t, err, codes.Internal)
		b.wantMounted(t, target, false)

		b.publishAs(t, "vol", target, true)
		must(t, os.RemoveAll(filepath.Join(b.cfg.CacheDir, filepath.Dir(view))))
		must(t, os.Rename(filepath.Join(b.cfg.CacheDir, filepath.Dir(testView)), filepath.Join(b.cfg.CacheDir, filepath.Dir(view))))
		_, err = b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
		must(t, err)
		_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
		must(t, err)
		b.wantMounted(t, target, false)
	}
}
