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
	w.asListed(t, m)
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
			t.Logf("%d files, %d bytes; scheduled to running: %s", len(m.files), m.bytes(), round(ran.running.Sub(ran.scheduled)))
			gone := w.remove(t, p, 30*time.Second)
			w.noTraces(t, p, 10*time.Second)
			t.Logf("gone after %s", round(gone))
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
	before := w.agentCounts(t)
	if before[fetchedBytes] < float64(m.bytes()) {
		t.Errorf("the agent says that it has fetched %v bytes; the first pod's model has %d", before[fetchedBytes], m.bytes())
	}

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
	after := w.agentCounts(t)
	onlyRose(t, before, after, acquires, acquiredHit, rounds)
	fetched := after[fetchedBytes] - before[fetchedBytes]
	if fetched != 0 {
		t.Errorf("with the model on the node, %v bytes were fetched", fetched)
	}
	t.Logf("scheduled to container started, median (least to most) of %d: %s with the model, %v bytes fetched; %s with an emptyDir; %s with no volume",
		rounds, spread(with), fetched, spread(empty), spread(without))
	if more := median(with) - median(empty); more >= time.Second {
		t.Errorf("a pod with a model that is on the node starts %s after one with an emptyDir", round(more))
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// spread is a person's view of durations.
func spread(d []time.Duration) string {
	return fmt.Sprintf("%s (%s to %s)", round(median(d)), round(slices.Min(d)), round(slices.Max(d)))
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
	for _, p := range []*corev1.Pod{pods[0], pods[4], pods[9]} {
		w.check(t, p, modelDir, m, "")
	}
	sent := w.hub.Traffic(m.repo)
	t.Logf("10 pods, %d bytes each: %d bytes in %d requests left the Hub, ratio %.3f; the last pod ran %s after it was scheduled",
		m.bytes(), sent.Total(), sent.Requests, float64(sent.Total())/float64(m.bytes()), round(last))
	if w.machine != nil && sent.Total() != m.bytes() { // elsewhere there may be more nodes than one
		t.Errorf("%d bytes left the Hub; the model has %d", sent.Total(), m.bytes())
	}
	for _, p := range pods {
		w.remove(t, p, time.Minute)
		w.noTraces(t, p, 10*time.Second)
	}
}
