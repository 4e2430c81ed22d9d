package cluster

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestPodStartsThoughTheHubCutsConnections: each request goes on where it was cut.
func TestPodStartsThoughTheHubCutsConnections(t *testing.T) {
	w := theWorld(t)
	t.Parallel()
	m := w.publish(t, hub.LargeModel)
	const after, times = 3 << 20, 20
	w.hub.Throttle(m.repo, m.bytes()/20)
	w.hub.Cut(m.repo, after, times)
	ns := w.namespace(t)
	volume := inline(m.repo)
	p := w.create(t, w.pod(ns, "cut", &volume))
	w.running(t, p, 2*time.Minute)
	w.check(t, p, modelDir, m, "")
	w.fetchedTwice(t, p, m, times<<20) // what lay unread in a connection's buffers
}

// TestPodStartsThoughTheHubStalls, for longer than Ballast has patience with a
// connection: five times 30 s.
func TestPodStartsThoughTheHubStalls(t *testing.T) {
	w := theWorld(t)
	t.Parallel()
	m, pods := w.slowly(t, 20*time.Second, "stalled")
	p := pods[0]
	w.sendsShare(t, m, 4)
	release := w.hub.Stall(m.repo)
	defer release()
	stalled := w.hub.Traffic(m.repo)
	t.Logf("kubelet's event: %s", w.eventOf(t, p, heldCall+15*time.Second, "FailedMount", "Aborted", "% of ", ", nothing has come from hub for 1m", m.repo))
	t.Logf("the agent's event: %s", w.eventOf(t, p, 2*time.Minute, "BallastWaiting", "stalled", "from hub", m.repo))
	release()
	w.startsOnceMended(t, p, m, time.Now(), 20*time.Second)
	// Every Piece that was under way is dropped, and comes again.
	w.fetchedTwice(t, p, m, stalled.Total())
}

// TestPodWaitsOutARateLimit, in the middle of a download, with every connection cut so
// that each must ask.
func TestPodWaitsOutARateLimit(t *testing.T) {
	w := theWorld(t)
	t.Parallel()
	m, pods := w.slowly(t, 20*time.Second, "limited")
	p := pods[0]
	w.sendsShare(t, m, 4)
	const limit = 25 * time.Second
	mended := time.Now().Add(limit)
	w.hub.RateLimit(m.repo, limit)
	w.hub.Cut(m.repo, 0, 8)
	limited := w.hub.Traffic(m.repo)
	t.Logf("the agent's event: %s", w.eventOf(t, p, 10*time.Second, "BallastWaiting", "rate limited", m.repo))
	time.Sleep(time.Until(mended))
	asked := w.hub.Traffic(m.repo).Since(limited).Requests
	t.Logf("the Hub was asked %d times within a rate limit of %s", asked, limit)
	if asked > 3*8 { // each connection, for its Piece and for another
		t.Errorf("that is more than %d", 3*8)
	}
	w.startsOnceMended(t, p, m, mended, 20*time.Second)
	w.fetchedTwice(t, p, m, limited.Total())
}

// TestPodThatBeginsWithinARateLimitStartsAfterIt.
func TestPodThatBeginsWithinARateLimitStartsAfterIt(t *testing.T) {
	w := theWorld(t)
	t.Parallel()
	m := w.publish(t, hub.SmallModel)
	const limit = 25 * time.Second
	mended := time.Now().Add(limit)
	w.hub.RateLimit(m.repo, limit)
	ns := w.namespace(t)
	volume := inline(m.repo)
	p := w.create(t, w.pod(ns, "limited", &volume))
	t.Logf("the agent's event: %s", w.eventOf(t, p, 10*time.Second, "BallastWaiting", "rate limited", m.repo))
	time.Sleep(time.Until(mended))
	w.startsOnceMended(t, p, m, mended, 0)
	w.fetchedTwice(t, p, m, 0)
}

// sendsShare waits until the n-th part of m has left the Hub.
func (w *world) sendsShare(t *testing.T, m model, n int64) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		if w.hub.Traffic(m.repo).Total() < m.bytes()/n {
			return "the Hub sends nothing"
		}
		return ""
	})
}

// startsOnceMended waits for p, whose download takes no longer than rest once what was
// in its way is over.
func (w *world) startsOnceMended(t *testing.T, p *corev1.Pod, m model, mended time.Time, rest time.Duration) {
	t.Helper()
	scheduled := w.running(t, p, rest+time.Minute).scheduled
	last, started := w.hub.Traffic(m.repo).Last, w.started(t, p)
	t.Logf("after the Hub was well again: its last byte left %s, the container started %s", round(last.Sub(mended)), round(started.Sub(mended)))
	if _, resting := restingAt(last.Sub(scheduled)); resting {
		t.Error("the download ended in kubelet's rest: this test measures nothing")
	}
	if late := started.Sub(last); late > startedWithin {
		t.Errorf("the container started %s after the last byte", late)
	}
	// A rate limit's end is told in whole seconds; one more is waited, and up to a tenth.
	if late := last.Sub(mended); late > rest+8*time.Second {
		t.Errorf("the download ended %s after nothing was in its way any more; it takes %s", late, rest)
	}
	w.check(t, p, modelDir, m, "")
}

// fetchedTwice prints what the Hub sent for p beyond the model, at most limit bytes.
func (w *world) fetchedTwice(t *testing.T, p *corev1.Pod, m model, limit int64) {
	t.Helper()
	sent := w.hub.Traffic(m.repo).Total()
	t.Logf("the Hub sent %.3f times the model's %d bytes", float64(sent)/float64(m.bytes()), m.bytes())
	if twice := sent - m.bytes(); twice < 0 || twice > limit {
		t.Errorf("%d bytes were sent twice; want at most %d\n%s", twice, limit, w.messages(t, p))
	}
}
