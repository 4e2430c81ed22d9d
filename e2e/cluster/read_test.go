package cluster

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestPodReadsEveryFileAsTheHubSays: and so do pods that see a folder of it only, that
// have a user namespace of their own, and that are not root.
func TestPodReadsEveryFileAsTheHubSays(t *testing.T) {
	w := theWorld(t)
	m := w.publish(t, hub.LargeModel)
	volume := inline(m.repo)
	for _, c := range []struct {
		name   string
		folder string
		edit   func(*corev1.Pod)
	}{
		{"plain", "", func(*corev1.Pod) {}},
		{"subpath", "shards/", func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].SubPath = "shards" }},
		{"user-namespace", "", func(p *corev1.Pod) { p.Spec.HostUsers = new(bool) }},
		{"non-root-fsgroup", "", func(p *corev1.Pod) {
			user, group := int64(1234), int64(2345)
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &group}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := w.namespace(t)
			p := w.create(t, w.pod(ns, c.name, &volume, c.edit))
			ran := w.running(t, p, time.Minute)
			w.check(t, p, modelDir, m, c.folder)
			t.Logf("%d files, %d bytes; scheduled to running: %s", len(m.files), m.bytes(), ran.running.Sub(ran.scheduled).Round(time.Millisecond))
			gone := w.remove(t, p, 30*time.Second)
			w.noTraces(t, p, 10*time.Second)
			t.Logf("gone after %s", gone.Round(time.Millisecond))
		})
	}
}
