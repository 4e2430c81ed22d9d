package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestPersistentVolumeIsSharedByPods: what charts that know only claims can have. None
// of them says readOnly (TestNoPodChangesTheCache shows that it is all the same).
func TestPersistentVolumeIsSharedByPods(t *testing.T) {
	w := theWorld(t)
	ns := w.namespace(t)
	m := w.publish(t, hub.SmallModel)
	claimed := w.claim(t, ns, m.repo)
	writable := func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].ReadOnly = false }
	one := w.create(t, w.pod(ns, "one", &claimed, writable))
	two := w.create(t, w.pod(ns, "two", &claimed, writable))
	for _, p := range []*corev1.Pod{one, two} {
		ran := w.running(t, p, time.Minute)
		w.check(t, p, modelDir, m, "")
		t.Logf("%s: scheduled to running %s", p.Name, round(ran.running.Sub(ran.scheduled)))
	}
	w.remove(t, one, 30*time.Second)
	w.noTraces(t, one, 10*time.Second)
	w.check(t, two, modelDir, m, "")
	w.remove(t, two, 30*time.Second)
	w.noTraces(t, two, 10*time.Second)
}

// TestPersistentVolumeIsMountedOnceItsRepositoryIsThere: kubelet has one call at a time,
// and one backoff, for all pods of a PersistentVolume on a node. Those that wait get the
// volume nevertheless, and one that goes meanwhile disturbs nobody.
func TestPersistentVolumeIsMountedOnceItsRepositoryIsThere(t *testing.T) {
	w := theWorld(t)
	ns := w.namespace(t)
	m := model{repo: "org/claimed-later", files: hub.SmallModel(seeds.Add(1)).Files()}
	w.hub.Private(m.repo) // an upload makes an empty repository first, which is none yet
	claimed := w.claim(t, ns, m.repo)
	one := w.create(t, w.pod(ns, "one", &claimed))
	two := w.create(t, w.pod(ns, "two", &claimed))
	leaves := w.create(t, w.pod(ns, "leaves", &claimed))
	eventually(t, 20*time.Second, func() string { // a call of kubelet's is told on one of them only
		all := slices.Concat(w.messages(t, one), w.messages(t, two), w.messages(t, leaves))
		if !strings.Contains(strings.Join(all, "\n"), m.repo+" at main: repository is private or does not exist") {
			return fmt.Sprintf("no event says that the repository is not there: %q", all)
		}
		return ""
	})
	gone := w.remove(t, leaves, 10*time.Second)
	w.noTraces(t, leaves, 10*time.Second)

	m = w.upload(t, m)
	w.hub.Public(m.repo)
	there := time.Now()
	var after []time.Duration
	for _, p := range []*corev1.Pod{one, two} {
		w.running(t, p, 20*time.Second)
		after = append(after, round(w.started(t, p).Sub(there)))
		w.check(t, p, modelDir, m, "")
	}
	t.Logf("the repository there, the containers of two pods of one PersistentVolume started after %v; a third was gone %s after it was deleted while they waited", after, round(gone))
	for _, p := range []*corev1.Pod{one, two} {
		w.remove(t, p, 30*time.Second)
		w.noTraces(t, p, 10*time.Second)
	}
}
