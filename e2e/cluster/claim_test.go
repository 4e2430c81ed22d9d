package cluster

import (
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
		t.Logf("%s: scheduled to running %s", p.Name, ran.running.Sub(ran.scheduled).Round(time.Millisecond))
	}
	w.remove(t, one, 30*time.Second)
	w.noTraces(t, one, 10*time.Second)
	w.check(t, two, modelDir, m, "")
	w.remove(t, two, 30*time.Second)
	w.noTraces(t, two, 10*time.Second)
}
