package cluster

import (
	"math"
	"regexp"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestPodStartsWhenADownloadOf150SecondsIsThere, which is longer than one call of
// kubelet's, and ends while its pod worker waits.
func TestPodStartsWhenADownloadOf150SecondsIsThere(t *testing.T) {
	startsAfter(t, 150*time.Second, false)
}

// TestPodStartsWhenADownloadOf5MinutesIsThere: so does this one, in kubelet's third call.
func TestPodStartsWhenADownloadOf5MinutesIsThere(t *testing.T) {
	startsAfter(t, 5*time.Minute, false)
}

// TestPodIsMountedThoughKubeletRestsWhenTheDownloadEnds: its container starts when the
// rest is over.
func TestPodIsMountedThoughKubeletRestsWhenTheDownloadEnds(t *testing.T) {
	startsAfter(t, 126*time.Second, true)
}

// The promise.
const (
	mountedWithin = time.Second     // of the moment the last byte is verified, by the agent's word
	startedWithin = 3 * time.Second // of the moment the last byte left the Hub
)

// heldCall is how long Ballast holds one call of kubelet's: to 2 s before its deadline.
const heldCall = 118 * time.Second

// startsAfter downloads a model for one pod until so long after it was scheduled, which
// is in a rest of kubelet's or not.
func startsAfter(t *testing.T, takes time.Duration, inRest bool) {
	w := theWorld(t)
	t.Parallel()
	m := w.publish(t, hub.LargeModel)
	w.hub.Throttle(m.repo, m.bytes()/int64(takes.Seconds()))
	ns := w.namespace(t)
	volume := inline(m.repo)
	p := w.create(t, w.pod(ns, "waits", &volume))
	w.sending(t, m) // on a busy machine that is a while later
	begun, _ := w.lives.get(p.UID)
	scheduled := begun.scheduled
	rate := float64(m.bytes()-w.hub.Traffic(m.repo).Total()) / time.Until(scheduled.Add(takes)).Seconds()
	w.hub.Throttle(m.repo, int64(rate))
	w.running(t, p, takes+time.Minute)

	lastByte := w.hub.Traffic(m.repo).Last
	complete := w.logged(t, "agent", p, "snapshot complete", m.repo+"@")
	mounted := w.logged(t, "csi", p, "mounted", ns+"/waits")
	started := w.started(t, p)
	failed := w.failedMounts(t, p)
	endsRest, rested := restingAt(complete.Sub(scheduled))
	t.Logf("a download of %s: the last byte left the Hub %s after the pod was scheduled; after that byte, verified: %s; after that, mounted: %s, "+
		"container started: %s; kubelet called %d times; kubelet's pod worker may have rested then: %t", takes, round(lastByte.Sub(scheduled)),
		round(complete.Sub(lastByte)), round(mounted.Sub(complete)), round(started.Sub(complete)), len(failed)+1, rested)

	if late := mounted.Sub(complete); late > mountedWithin {
		t.Errorf("mounted %s after the last byte was verified", late)
	}
	if late := mounted.Sub(lastByte); late > startedWithin {
		t.Errorf("mounted %s after the last byte left the Hub", late)
	}
	if rested != inRest {
		t.Errorf("it was complete %s after the pod was scheduled: not the time that this test is for", complete.Sub(scheduled))
	}
	limit := lastByte.Add(startedWithin)
	if rested {
		limit = scheduled.Add(endsRest + startedWithin)
	}
	if started.After(limit) {
		t.Errorf("the container started %s after the last byte left the Hub, %s later than it should", started.Sub(lastByte), started.Sub(limit))
	}
	if want := int(complete.Sub(scheduled) / heldCall); len(failed) != want {
		t.Errorf("%d calls of kubelet's ended without a mount; want %d", len(failed), want)
	}
	for _, e := range failed {
		t.Logf("event at %s: %s", round(e.FirstTimestamp.Sub(scheduled)), e.Message)
		checkProgress(t, e.Message, complete.Sub(e.FirstTimestamp.Time), rate, m.bytes())
	}
	w.check(t, p, modelDir, m, "")
	if sent := w.hub.Traffic(m.repo).Total(); sent != m.bytes() {
		t.Errorf("the Hub sent %d bytes of %d", sent, m.bytes())
	}
}

// kubelet's rhythm while a pod's volumes are not mounted. Its pod worker waits for them,
// gives up, and is not woken before its rest is over: podAttachAndMountTimeout in
// pkg/kubelet/volumemanager/volume_manager.go; backOffPeriod, with a jitter of half of
// it, in pkg/kubelet/pod_workers.go; and the ticker by which kubelet.go looks who has
// rested.
const (
	volumesWait  = 2*time.Minute + 3*time.Second
	shortestRest = 10 * time.Second
	longestRest  = 15*time.Second + time.Second
	// What is between the scheduler's word and the first wait.
	noticed = time.Second
)

// restingAt reports whether kubelet's pod worker may be at rest so long after the pod was
// scheduled, and if so how long after it the rest is over at the latest.
func restingAt(d time.Duration) (ends time.Duration, resting bool) {
	for n := time.Duration(1); n*volumesWait+(n-1)*shortestRest <= d; n++ {
		if ends := noticed + n*(volumesWait+longestRest); d <= ends {
			return ends, true
		}
	}
	return 0, false
}

var progressText = regexp.MustCompile(`@[0-9a-f]{7}: (\d+)% of [0-9.]+ .?B, ([0-9.]+) (.?)B/s, about (\S+) left, from hub$`)

// checkProgress checks that an event says what is true of a download that has so much
// time left: percent, rate, time and source.
func checkProgress(t *testing.T, event string, left time.Duration, rate float64, bytes int64) {
	t.Helper()
	said := progressText.FindStringSubmatch(event)
	if said == nil {
		t.Errorf("no percent, rate, time and source in %q", event)
		return
	}
	percent, _ := strconv.ParseFloat(said[1], 64)
	saidRate, _ := strconv.ParseFloat(said[2], 64)
	saidRate *= map[string]float64{"": 1, "k": 1e3, "M": 1e6}[said[3]]
	saidLeft, err := time.ParseDuration(said[4])
	want := 100 * (1 - left.Seconds()*rate/float64(bytes))
	if err != nil || math.Abs(percent-want) > 3 || math.Abs(saidRate/rate-1) > 0.2 || (saidLeft-left).Abs() > left/5+2*time.Second {
		t.Errorf("%.0f%% had come, at %.0f B/s, %s were left, and the event says %q (%v)", want, rate, left, event, err)
	}
}

// failedMounts are the events of kubelet's calls for p's volume that failed, oldest
// first.
func (w *world) failedMounts(t *testing.T, p *corev1.Pod) []corev1.Event {
	t.Helper()
	var failed []corev1.Event
	for _, e := range w.events(t, p) {
		if e.Reason == "FailedMount" {
			for range max(e.Count, 1) {
				failed = append(failed, e)
			}
		}
	}
	return failed
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
