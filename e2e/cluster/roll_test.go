package cluster

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/fetcher"
)

// TestRollingBallastLosesNothing: both DaemonSets are rolled to the other image at
// once, beside a pod that reads and while another waits for a download. The first
// reads on, the second starts, and of the Pieces that the old agent had finished the new
// one fetches none.
//
// What was on its way does come again: a Piece is the unit of resume, so each of the
// agent's 8 connections may lose up to 16 MiB.
func TestRollingBallastLosesNothing(t *testing.T) {
	w := onNode(t)
	w.healthy(t)
	small, ns := inline(w.named(t, "org/roll-beside").repo), w.namespace(t)
	reader := w.create(t, w.pod(ns, "reader", &small, rereads))
	w.running(t, reader, time.Minute)

	large, waits := w.halfWay(t, ns)
	w.hub.Throttle(large.repo, 2<<20) // so that the rest does not come before the agent is told to stop
	journal := w.journal(t, large.files[weights])

	old := slices.Concat(w.processes(t, agent), w.processes(t, csi))
	asked := time.Now()
	w.setImage(t, w.otherImage(t))
	eventually(t, time.Minute, func() string {
		if slices.ContainsFunc(w.processes(t, agent), func(pid int) bool { return slices.Contains(old, pid) }) {
			return "the old agent runs on"
		}
		return ""
	})
	before, finished := w.hub.Traffic(large.repo), finishedIn(t, journal, size)
	if pids := w.processes(t, agent); len(pids) > 0 {
		t.Fatalf("agent %v runs already: what the old one had finished cannot be told any more", pids)
	}
	w.healthy(t, old...)
	rolled := time.Since(asked)
	if before := w.hub.Traffic(large.repo).Bytes[weights]; before >= size {
		t.Logf("the download ended before the roll did: %d bytes", before)
	}
	w.hub.Throttle(large.repo, 0)
	lifted := time.Now()
	ran := w.running(t, waits, time.Minute).running
	started := w.started(t, waits)

	all := w.hub.Traffic(large.repo)
	again := all.Since(before).Bytes[weights]
	if finished == 0 || finished == size {
		t.Errorf("the old agent had finished %d bytes of %d: nothing is shown", finished, size)
	}
	if !onlyUnfinished(again, size-finished) {
		t.Errorf("%d bytes left the Hub after the roll; want the %d that the old agent had not finished", again, size-finished)
	}
	rounds := w.readsOn(t, reader)
	w.check(t, waits, modelDir, large, "")
	t.Logf("both rolled in %s, the pod beside reads on (%d rounds). Of %d bytes the old agent had finished %d when it ended and %d were on their way: %d came again, %.2f times the file in all (8 connections x 16 MiB at most). "+
		"Full speed back, the container started after %s (last byte after %s, seen to run after %s)",
		round(rolled), rounds, size, finished, before.Bytes[weights]-finished, all.Bytes[weights]-size, float64(all.Bytes[weights])/size,
		round(started.Sub(lifted)), round(all.Last.Sub(lifted)), round(ran.Sub(lifted)))
	for _, p := range []*corev1.Pod{reader, waits} {
		w.remove(t, p, 30*time.Second)
		w.noTraces(t, p, 10*time.Second)
	}
}

// TestKilledDownloadGoesOn: both parts of Ballast are killed while a pod waits for a
// download. It starts, and of the Pieces that were finished none is fetched twice.
func TestKilledDownloadGoesOn(t *testing.T) {
	w := onNode(t)
	w.healthy(t)
	ns := w.namespace(t)
	m, waits := w.halfWay(t, ns)
	journal := w.journal(t, m.files[weights])
	release := w.hub.Stall(m.repo) // what leaves now is the next agent's
	defer release()

	killed := time.Now()
	was := w.end(t, csi, agent)
	eventually(t, time.Minute, func() string {
		if slices.Contains(w.processes(t, agent), was[agent]) {
			return "the agent that was killed is still there"
		}
		return ""
	})
	before, done := w.hub.Traffic(m.repo), finishedIn(t, journal, size)
	if pids := w.processes(t, agent); len(pids) > 0 {
		t.Fatalf("agent %v runs already: what the old one had finished cannot be told any more", pids)
	}
	w.replaced(t, was)
	replaced := time.Now()
	release()
	w.hub.Throttle(m.repo, 0)
	w.running(t, waits, time.Minute)
	started := w.started(t, waits)

	again := w.hub.Traffic(m.repo).Since(before).Bytes[weights]
	if done == 0 || done == size {
		t.Errorf("%d bytes of %d were finished: nothing is shown", done, size)
	}
	if !onlyUnfinished(again, size-done) {
		t.Errorf("%d bytes left the Hub after the kill; want the %d that were not finished", again, size-done)
	}
	w.check(t, waits, modelDir, m, "")
	t.Logf("both killed: new processes after %s; of %d bytes %d were finished, %d left the Hub after the kill; the container started %s after the kill",
		round(replaced.Sub(killed)), size, done, again, round(started.Sub(killed)))
	w.healthy(t)
	w.remove(t, waits, 30*time.Second)
	w.noTraces(t, waits, 10*time.Second)
}

// The large file of a halfWay download.
const (
	weights = "model-00001-of-00001.safetensors"
	size    = 16*fetcher.PieceSize + 1
)

// halfWay has a pod wait for a download of which more than half has come.
func (w *world) halfWay(t *testing.T, ns string) (model, *corev1.Pod) {
	t.Helper()
	m := w.publish(t, func(seed uint64) hub.Model { return hub.Model{Seed: seed, Weights: []int{size}, Small: 10} })
	volume := inline(m.repo)
	w.hub.Throttle(m.repo, 100<<20)
	waits := w.create(t, w.pod(ns, "waits", &volume))
	eventually(t, time.Minute, func() string {
		if n := w.hub.Traffic(m.repo).Bytes[weights]; n < 12*fetcher.PieceSize {
			return fmt.Sprintf("%d bytes have left the Hub", n)
		}
		return ""
	})
	return m, waits
}

// onlyUnfinished reports whether what left the Hub is what was unfinished. To each of the
// old agent's 8 connections the Hub may write one more buffer of 32 KiB before it learns
// that nobody reads: all together is far less than a Piece.
func onlyUnfinished(sent, unfinished int64) bool {
	return sent >= unfinished && sent <= unfinished+8*32<<10
}

// setImage has both DaemonSets run another image.
func (w *world) setImage(t *testing.T, image string) {
	t.Helper()
	if err := w.run(t.Context(), "-n", "ballast", "set", "image", "daemonset/ballast-agent", "daemonset/ballast-csi", "*="+image); err != nil {
		t.Fatal(err)
	}
}

// otherImage is the one of the two that Ballast does not run now.
func (w *world) otherImage(t *testing.T) string {
	t.Helper()
	p, err := w.part(t.Context(), agent)
	if err != nil {
		t.Fatal(err)
	}
	if p.Spec.Containers[0].Image == registry+newImage {
		return registry + oldImage
	}
	return registry + newImage
}

// journal is the path of the journal of the Ingest of a file of several Pieces.
func (w *world) journal(t *testing.T, content []byte) string {
	t.Helper()
	journals, err := filepath.Glob(w.onDisk(fmt.Sprintf("%s/ingests/sha256-%x-*/journal", cacheDir, sha256.Sum256(content))))
	if err != nil || len(journals) != 1 {
		t.Fatalf("journals of the download: %q (%v); want one", journals, err)
	}
	return journals[0]
}

// finishedIn is how many bytes of a file of such a size are in finished Pieces, by its
// journal: records of 24 bytes, the Piece's index first.
func finishedIn(t *testing.T, journal string, size int64) int64 {
	t.Helper()
	records, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	pieces := map[int]int64{}
	for record := range slices.Chunk(records, 24) {
		i := int(binary.LittleEndian.Uint64(record))
		pieces[i] = fetcher.PieceAt(i, size).Size
	}
	var sum int64
	for _, n := range pieces {
		sum += n
	}
	return sum
}
