package cluster

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestPodsReadOnWhenBallastIsKilled: a kill -9 of either part, or of both, is nothing
// to a pod that runs; and what is killed and started again ends volumes like any other.
func TestPodsReadOnWhenBallastIsKilled(t *testing.T) {
	w := onNode(t)
	w.healthy(t)
	still := w.mountsStay(t)
	m := w.publish(t, hub.LargeModel)
	volume := inline(m.repo)
	ns := w.namespace(t)
	reader := w.create(t, w.pod(ns, "reader", &volume, rereads))
	w.running(t, reader, time.Minute)
	for _, parts := range [][]string{{csi}, {agent}, {csi, agent}} {
		name := strings.Join(parts, "-and-")
		other := w.create(t, w.pod(ns, "beside-"+name, &volume))
		w.running(t, other, time.Minute)
		back := w.kill(t, parts...)
		rounds := w.readsOn(t, reader)
		w.pinsAreMounts(t, 10*time.Second)
		gone := w.remove(t, other, 30*time.Second)
		unpublished := time.Now()
		w.noTraces(t, other, 30*time.Second)
		t.Logf("%s killed: a new process after %s; the pod beside reads on, %d rounds so far; one deleted then is gone after %s, its pin after %s more",
			name, round(back), rounds, round(gone), round(time.Since(unpublished)))
	}
	w.healthy(t)
	w.remove(t, reader, 30*time.Second)
	w.noTraces(t, reader, 10*time.Second)
	still()
}

// TestPodsDeletedWhileTheAgentIsAwayTerminate: one that runs, and one that waits for
// the agent on its first attempt. What the first leaves is its pin, until the agent is
// back. (One that waits on a retry terminates too, but only when the call that csi holds
// has ended, up to 118 s later: nobody but the agent could tell csi that it is deleted.)
func TestPodsDeletedWhileTheAgentIsAwayTerminate(t *testing.T) {
	w := onNode(t)
	w.healthy(t)
	m := w.publish(t, hub.SmallModel)
	volume := inline(m.repo)
	ns := w.namespace(t)
	runs := w.create(t, w.pod(ns, "runs", &volume))
	w.running(t, runs, time.Minute)
	back := w.withoutAgent(t)

	waits := w.create(t, w.pod(ns, "waits", &volume))
	starts := w.create(t, w.pod(ns, "starts", &volume))
	w.held(t, 2)
	waited := w.remove(t, waits, 10*time.Second)
	ran := w.remove(t, runs, 10*time.Second)
	eventually(t, 10*time.Second, func() string {
		left := strings.Join(w.traces(t, runs), "\n")
		if strings.Contains(left, "mounted: ") || strings.Contains(left, "on disk: ") {
			return left
		}
		return ""
	})
	if pins := w.pinned(t); len(pins) != 1 {
		t.Errorf("pins while the agent is away: %q; want the one of the pod that ran", pins)
	}

	asked := time.Now()
	back()
	ready := time.Now()
	w.running(t, starts, 30*time.Second)
	started := time.Now()
	w.noTraces(t, runs, 30*time.Second)
	t.Logf("deleted without an agent: a pod that ran is gone after %s, one that waited after %s; with the agent back (%s until ready) a third that waited runs after %s, the pin is gone after %s",
		round(ran), round(waited), round(ready.Sub(asked)),
		round(max(0, started.Sub(ready))), round(time.Since(ready)))
	w.check(t, starts, modelDir, m, "")
	w.noTraces(t, waits, 30*time.Second)
	w.remove(t, starts, 30*time.Second)
	w.noTraces(t, starts, 10*time.Second)
}

// held waits until csi holds so many calls of kubelet's, which makes a connection for
// each.
func (w *world) held(t *testing.T, calls int) {
	t.Helper()
	// Of kubelet's network namespace: an accepted socket is in that of who connected.
	table := strings.TrimSuffix(w.machine.Root(), "root") + "net/unix"
	eventually(t, 30*time.Second, func() string {
		sockets, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		connected := 0
		for line := range strings.Lines(string(sockets)) {
			f := strings.Fields(line)
			if len(f) == 8 && f[5] == "03" && f[7] == "/csi/csi.sock" { // SS_CONNECTED, at the path that csi listens on
				connected++
			}
		}
		if connected != calls {
			return fmt.Sprintf("csi holds %d calls; want %d", connected, calls)
		}
		return ""
	})
}
