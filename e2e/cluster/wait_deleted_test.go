package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// goneWithin is how long a pod that waits may take to go.
const goneWithin = 10 * time.Second

// TestPodDeletedWhileItWaitsIsGoneAndTheOthersGoOn: while kubelet's first call is held,
// and while a later one is, when kubelet waits for the call to end.
func TestPodDeletedWhileItWaitsIsGoneAndTheOthersGoOn(t *testing.T) {
	w := theWorld(t)
	t.Parallel()
	m, pods := w.slowly(t, 10*time.Minute, "first", "retried", "stays")
	first, retried, stays := pods[0], pods[1], pods[2]
	w.sending(t, m)

	w.removeWaiting(t, first, "its first call")
	w.eventOf(t, retried, heldCall+15*time.Second, "FailedMount", "Aborted", "% of ")
	time.Sleep(3 * time.Second) // kubelet calls again after half a second; removeWaiting sees whether it did
	w.removeWaiting(t, retried, "a later call")

	one, _ := w.lives.get(stays.UID)
	if !one.running.IsZero() {
		t.Fatal("the other pod runs already: nothing waited")
	}
	time.Sleep(time.Until(one.scheduled.Add(noticed + volumesWait + longestRest))) // or its start says nothing
	w.sending(t, m)
	w.hub.Throttle(m.repo, 0)
	w.startsOnceMended(t, stays, m, time.Now(), 20*time.Second)
	if sent := w.hub.Traffic(m.repo).Total(); sent != m.bytes() {
		t.Errorf("the Hub sent %d bytes of %d: those who left took some with them", sent, m.bytes())
	}
}

// TestDownloadEndsWithItsLastWaiter, within a minute.
func TestDownloadEndsWithItsLastWaiter(t *testing.T) {
	w := theWorld(t)
	t.Parallel()
	m, pods := w.slowly(t, 10*time.Minute, "one", "other")
	w.sending(t, m)
	w.removeWaiting(t, pods[0], "its first call")
	w.sending(t, m)
	deleted := time.Now()
	w.removeWaiting(t, pods[1], "its first call")

	const quiet = 10 * time.Second // the Hub sends many times a second
	var last time.Time
	eventually(t, time.Minute+quiet, func() string {
		if last = w.hub.Traffic(m.repo).Last; time.Since(last) < quiet {
			return "the Hub still sends"
		}
		return ""
	})
	when := "after"
	if last.Before(deleted) {
		when = "before"
	}
	t.Logf("the last byte left the Hub %s %s the last pod was deleted", round(last.Sub(deleted).Abs()), when)
}

// slowly has pods of these names wait for one model, which takes so long to come.
func (w *world) slowly(t *testing.T, takes time.Duration, names ...string) (m model, pods []*corev1.Pod) {
	t.Helper()
	m = w.publish(t, hub.LargeModel)
	w.hub.Throttle(m.repo, m.bytes()/int64(takes.Seconds()))
	ns := w.namespace(t)
	volume := inline(m.repo)
	for _, name := range names {
		pods = append(pods, w.create(t, w.pod(ns, name, &volume)))
	}
	return m, pods
}

// sending waits until the Hub has sent content of m, and sends more.
func (w *world) sending(t *testing.T, m model) {
	t.Helper()
	before := w.hub.Traffic(m.repo).Total()
	eventually(t, time.Minute, func() string {
		if sent := w.hub.Traffic(m.repo).Total(); sent <= before {
			return fmt.Sprintf("the Hub has sent %d bytes, and sends no more", sent)
		}
		return ""
	})
}

// removeWaiting deletes a pod that a call of kubelet's waits for, and checks that
// nothing is left of it.
func (w *world) removeWaiting(t *testing.T, p *corev1.Pod, call string) {
	t.Helper()
	gone := w.remove(t, p, goneWithin)
	w.noTraces(t, p, goneWithin-gone)
	var last string
	eventually(t, goneWithin, func() string {
		all := w.messages(t, p)
		for _, m := range all {
			if strings.Contains(m, "the pod is being deleted") {
				last = m
				return ""
			}
		}
		return "no event says that a call was held when the pod was deleted: " + strings.Join(all, "\n")
	})
	t.Logf("deleted while Ballast held %s: gone after %s; its last event: %s", call, round(gone), last)
}
