package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/e2e/node"
)

// TestFullDiskIsWaitedFor: pods say what they wait for, and start by themselves when
// there is room. What needs no room goes on meanwhile.
func TestFullDiskIsWaitedFor(t *testing.T) {
	w := onNode(t)
	warm, cold := w.named(t, "org/full-warm"), w.publish(t, hub.LargeModel)
	ns := w.namespace(t)
	volume := inline(warm.repo)
	old := w.create(t, w.pod(ns, "old", &volume))
	w.running(t, old, time.Minute)

	w.fill(t, 0)
	volume = inline(cold.repo)
	stays, leaves := w.create(t, w.pod(ns, "stays", &volume)), w.create(t, w.pod(ns, "leaves", &volume))
	said := w.eventOf(t, stays, 20*time.Second, "BallastWaiting", "no space", "make room on that disk")
	t.Logf("full: %s", said)
	w.eventOf(t, leaves, 20*time.Second, "BallastWaiting", "no space", "make room on that disk")
	w.remove(t, old, 10*time.Second)
	w.noTraces(t, old, 10*time.Second)
	gone := w.remove(t, leaves, 10*time.Second)
	w.noTraces(t, leaves, 10*time.Second)
	unfinished := w.unfinished(t)
	time.Sleep(6 * time.Second) // three tries more
	if now := w.unfinished(t); !maps.Equal(unfinished, now) {
		t.Errorf("what is unfinished grows while nothing can come of it: %v, then %v", unfinished, now)
	}

	w.fill(t, 200<<20) // enough for the model, and less than is kept free
	late := w.create(t, w.pod(ns, "late", &volume))
	said = w.eventOf(t, late, 20*time.Second, "BallastWaiting", "no space", "bytes are needed beyond the", "make room on that disk, or lower the reserve")
	t.Logf("nearly full: %s", said)
	w.nothingFor(t, stays, late)
	if sent := w.hub.Traffic(cold.repo).Total(); sent > 0 {
		t.Errorf("%d bytes were fetched for a cache that has no room", sent)
	}
	w.unfill(t)
	room := time.Now()
	started := w.running(t, stays, 30*time.Second).running
	w.running(t, late, 30*time.Second)
	w.check(t, stays, modelDir, cold, "")
	for _, m := range append(w.messages(t, stays), w.messages(t, late)...) {
		if strings.Contains(m, "FailedMount") { // its call was not held, and kubelet rests after each
			t.Errorf("refused: %s", m)
		}
	}
	if left := w.unfinished(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	t.Logf("a waiting pod was gone %s after it was deleted; the other ran %s after there was room", round(gone), round(started.Sub(room)))
	for _, p := range []*corev1.Pod{stays, late} {
		w.remove(t, p, 30*time.Second)
		w.noTraces(t, p, 10*time.Second)
	}
}

// filler is a file beside the cache.
const filler = node.CacheDisk + "/filler"

// fill leaves so many bytes of the cache's disk to those who are not root, until
// unfill is called or the test ends.
func (w *world) fill(t *testing.T, leave int64) {
	t.Helper()
	w.unfill(t)
	t.Cleanup(func() { w.unfill(t) })
	f, err := os.Create(w.onDisk(filler))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &disk); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(disk.Bavail)*disk.Frsize-leave); err != nil {
		t.Fatal(err)
	}
}

func (w *world) unfill(t *testing.T) {
	t.Helper()
	if err := os.Remove(w.onDisk(filler)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// unfinished is what the cache has on its way in, by path, with the size on disk.
func (w *world) unfinished(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	if w.machine == nil {
		return all // out of reach
	}
	for _, below := range []string{"ingests/*", "ingests/*/*", "views/*.partial", "views/*.partial/*"} {
		paths, err := filepath.Glob(w.onDisk(filepath.Join(cacheDir, below)))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			var stat syscall.Stat_t
			if err := syscall.Lstat(path, &stat); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			all[strings.TrimPrefix(path, w.onDisk(cacheDir))] = fmt.Sprintf("%d bytes in %d blocks", stat.Size, stat.Blocks)
		}
	}
	return all
}
