package csi

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

func TestReconcileReleasesOnlyWhatIsCertainlyGone(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(t *testing.T, b *bench, target string) (pinned string)
		gone    bool
	}{
		"unmounted, and kubelet's directory is gone": {func(t *testing.T, b *bench, target string) string {
			b.podGone(t, "pod-1")
			return target
		}, true},
		"only the volume's own directory is gone": {func(t *testing.T, b *bench, target string) string {
			must(t, os.Remove(filepath.Dir(target)))
			return target
		}, true},
		"kubelet's directory is there": {func(_ *testing.T, _ *bench, target string) string { return target }, false},
		"mounted, though kubelet's directory is not to be seen (overlay)": {func(t *testing.T, b *bench, target string) string {
			b.mountAndCover(t, target, false)
			return target
		}, false},
		"mounted, though kubelet's directory is not to be seen (bind)": {func(t *testing.T, b *bench, target string) string {
			b.mountAndCover(t, target, true)
			return target
		}, false},
		"unmounted, but a subPath of it is mounted": {func(t *testing.T, b *bench, target string) string {
			_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
			must(t, err)
			sub := filepath.Join(b.dir, "sub")
			must(t, os.Mkdir(sub, 0o755))
			must(t, unix.Mount(filepath.Join(target, "sub"), sub, "", unix.MS_BIND, ""))
			t.Cleanup(func() { must(t, unix.Unmount(sub, 0)) })
			must(t, b.node.mounter.Unmount(target))
			b.podGone(t, "pod-1")
			return target
		}, false},
		"an operation is in flight": {func(t *testing.T, b *bench, target string) string {
			b.podGone(t, "pod-1")
			_, ok := b.node.targets.tryLock(target)
			if !ok {
				t.Fatal("locked")
			}
			return target
		}, false},
		"kubelet's pods are not to be seen from here": {func(*testing.T, *bench, string) string {
			return "/no/such/kubelet/pods/1/volumes/kubernetes.io~csi/model/mount"
		}, false},
		"not a path of kubelet's (ballast mount)": {func(_ *testing.T, b *bench, _ string) string {
			return filepath.Join(b.dir, "home/absent/models")
		}, false},
		"a path with a file on its way": {func(t *testing.T, b *bench, target string) string {
			must(t, os.Remove(filepath.Dir(target)))
			must(t, os.WriteFile(filepath.Dir(target), nil, 0o600))
			return target
		}, false},
		"mountinfo cannot be read": {func(t *testing.T, b *bench, target string) string {
			b.podGone(t, "pod-1")
			b.node.mounter = &stuckMounter{blind: true}
			return target
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			target := test.prepare(t, b, b.target(t, "pod-1"))
			b.agent.set(func(a *fakeAgent) { a.pin(&agentpb.Volume{Id: "vol", TargetPath: target}) })
			must(t, b.node.reconcile(t.Context()))
			if gone := b.agent.pinned() == 0; gone != test.gone {
				t.Errorf("pin released: %v, want %v", gone, test.gone)
			}
			want := 0.0
			if test.gone {
				want = 1
			}
			if got := testutil.ToFloat64(b.metrics.reconciled); got != want {
				t.Errorf("counted %v", got)
			}
		})
	}
}

// mountAndCover publishes a volume, and hides kubelet's directory for its pod below
// another mount.
func (b *bench) mountAndCover(t *testing.T, target string, bind bool) {
	t.Helper()
	b.agent.set(func(a *fakeAgent) { a.acquire = answering(bindReady(bind)) })
	_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	pod := filepath.Join(b.dir, "kubelet/pods/pod-1")
	must(t, unix.Mount("tmpfs", pod, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(pod, 0)) })
	if _, err := os.Lstat(filepath.Dir(target)); !os.IsNotExist(err) {
		t.Fatalf("kubelet's directory can still be seen: %v", err)
	}
}

func TestReconcilesAtStartOnReconnectAndPeriodically(t *testing.T) {
	b := newBench(t)
	target := b.target(t, "pod-1")
	synctest.Test(t, func(t *testing.T) {
		b := b.inBubble(t)
		orphan := func() {
			b.agent.set(func(a *fakeAgent) {
				a.pin(&agentpb.Volume{Id: "orphan", TargetPath: filepath.Join(b.dir, "kubelet/pods/gone/volumes/kubernetes.io~csi/m/mount")})
			})
		}
		// settles after d, and reports whether the orphan is gone
		released := func(after time.Duration) bool {
			<-time.After(after)
			synctest.Wait()
			return b.agent.pinned() == 0
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		orphan()
		go func() {
			b.node.reconcileUntil(ctx, 10*time.Minute)
			close(done)
		}()
		if !released(0) {
			t.Error("not at start")
		}
		orphan()
		if released(9 * time.Minute) {
			t.Error("reconciled without a reason")
		}
		if !released(time.Minute) {
			t.Error("not after the period")
		}

		// The agent is away when a volume is unpublished, and comes back.
		_, err := b.node.NodePublishVolume(ctx, publishRequest("vol", target))
		must(t, err)
		b.agent.set(func(a *fakeAgent) { a.away = true })
		_, err = b.node.NodeUnpublishVolume(ctx, unpublishRequest("vol", target))
		must(t, err)
		b.podGone(t, "pod-1")
		if released(2 * time.Minute) {
			t.Error("released by an agent that is away")
		}
		b.agent.set(func(a *fakeAgent) { a.away = false })
		if !released(retryReconcile) {
			t.Error("not on reconnect")
		}
		if n := b.logs.FilterMessageSnippet("pins cannot be reconciled").Len(); n != 1 {
			t.Errorf("an agent that is away is logged %d times in 2 minutes", n)
		}
		cancel()
		<-done
	})
}
