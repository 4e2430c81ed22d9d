package cluster

import (
	"fmt"
	"slices"
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

// TestSecondPodStartsWithTheHubStopped: it costs nothing but what any pod costs.
func TestSecondPodStartsWithTheHubStopped(t *testing.T) {
	w := theWorld(t)
	ns := w.namespace(t)
	m := w.publish(t, hub.LargeModel)
	volume := inline(m.repo)
	first := w.create(t, w.pod(ns, "first", &volume))
	w.running(t, first, time.Minute)
	fetched := w.hub.Traffic(m.repo)

	w.stopHub(t)
	const rounds = 5
	var with, empty, without []time.Duration
	for i := range rounds {
		for _, c := range []struct {
			name   string
			volume *corev1.VolumeSource
			took   *[]time.Duration
		}{
			{"model", &volume, &with},
			{"empty", &corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, &empty}, // kubelet's own share
			{"bare", nil, &without},
		} {
			p := w.create(t, w.pod(ns, fmt.Sprintf("%s-%d", c.name, i), c.volume))
			ran := w.running(t, p, time.Minute)
			*c.took = append(*c.took, w.started(t, p).Sub(ran.scheduled))
			if c.volume == &volume && i == 0 {
				w.check(t, p, modelDir, m, "")
			}
			w.remove(t, p, 30*time.Second)
		}
	}
	if more := w.hub.Traffic(m.repo).Since(fetched); more.Requests != 0 || more.Total() != 0 {
		t.Errorf("with the model on the node, pods asked the Hub %d times, for %d bytes", more.Requests, more.Total())
	}
	t.Logf("scheduled to container started, median (least to most) of %d: %s with the model, 0 bytes fetched; %s with an emptyDir; %s with no volume",
		rounds, spread(with), spread(empty), spread(without))
}

// spread is a person's view of durations.
func spread(d []time.Duration) string {
	slices.Sort(d)
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%s (%s to %s)", round(d[len(d)/2]), round(d[0]), round(d[len(d)-1]))
}

func TestTenPodsOnAColdCacheFetchEachByteOnce(t *testing.T) {
	w := theWorld(t)
	ns := w.namespace(t)
	m := w.publish(t, hub.LargeModel)
	volume := inline(m.repo)
	var pods []*corev1.Pod
	for i := range 10 {
		pods = append(pods, w.create(t, w.pod(ns, fmt.Sprintf("pod-%d", i), &volume)))
	}
	var last time.Duration
	for _, p := range pods {
		ran := w.running(t, p, 2*time.Minute)
		last = max(last, ran.running.Sub(ran.scheduled))
	}
	w.check(t, pods[9], modelDir, m, "")
	sent := w.hub.Traffic(m.repo)
	t.Logf("10 pods, %d bytes each: %d bytes in %d requests left the Hub, ratio %.3f; the last pod ran %s after it was scheduled",
		m.bytes(), sent.Total(), sent.Requests, float64(sent.Total())/float64(m.bytes()), last.Round(time.Millisecond))
	if w.machine != nil && sent.Total() != m.bytes() { // elsewhere there may be more nodes than one
		t.Errorf("%d bytes left the Hub; the model has %d", sent.Total(), m.bytes())
	}
	for _, p := range pods {
		w.remove(t, p, time.Minute)
		w.noTraces(t, p, 10*time.Second)
	}
}
