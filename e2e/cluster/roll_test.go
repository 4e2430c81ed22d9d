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
	m := w.publish(t, hub.SmallModel)
	small, ns := inline(m.repo), w.namespace(t)
	reader := w.create(t, w.pod(ns, "reader", &small, rereads))
	w.running(t, reader, time.Minute)

	const weights = "model-00001-of-00001.safetensors"
	const size = 16*fetcher.PieceSize + 1
	large := w.upload(t, model{repo: m.repo + "-large", files: hub.Model{Seed: seeds.Add(1), Weights: []int{size}, Small: 10}.Files()})
	volume := inline(large.repo)
	w.hub.Throttle(large.repo, 100<<20)
	waits := w.create(t, w.pod(ns, "waits", &volume))
	eventually(t, time.Minute, func() string {
		if n := w.hub.Traffic(large.repo).Bytes[weights]; n < 12*fetcher.PieceSize {
			return fmt.Sprintf("%d bytes have left the Hub", n)
		}
		return ""
	})
	w.hub.Throttle(large.repo, 2<<20) // so that the rest does not come before the agent is told to stop

	old := slices.Concat(w.processes(t, agent), w.processes(t, csi))
	asked := time.Now()
	w.setImage(t, w.otherImage(t))
	eventually(t, time.Minute, func() string {
		if slices.ContainsFunc(w.processes(t, agent), func(pid int) bool { return slices.Contains(old, pid) }) {
			return "the old agent runs on"
		}
		return ""
	})
	before, finished := w.hub.Traffic(large.repo), w.finished(t, large.files[weights])
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
	if again != size-finished {
		t.Errorf("%d bytes left the Hub after the roll; want the %d that the old agent had not finished", again, size-finished)
	}
	rounds := w.readsOn(t, reader)
	w.check(t, waits, modelDir, large, "")
	t.Logf("both rolled in %s, the pod beside reads on (%d rounds). Of %d bytes the old agent had finished %d when it ended and %d were on their way: %d came again, %.2f times the file in all (8 connections x 16 MiB at most). "+
		"Full speed back, the container started after %s (last byte after %s, seen to run after %s)",
		rolled.Round(time.Millisecond), rounds, size, finished, before.Bytes[weights]-finished, all.Bytes[weights]-size, float64(all.Bytes[weights])/size,
		started.Sub(lifted).Round(time.Millisecond), all.Last.Sub(lifted).Round(time.Millisecond), ran.Sub(lifted).Round(time.Millisecond))
	for _, p := range []*corev1.Pod{reader, waits} {
		w.remove(t, p, 30*time.Second)
		w.noTraces(t, p, 10*time.Second)
	}
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

// finished is how many bytes of a file of several Pieces are in finished ones, by the
// journal of its Ingest: records of 24 bytes, the Piece's index first.
func (w *world) finished(t *testing.T, content []byte) int64 {
	t.Helper()
	journals, err := filepath.Glob(w.onDisk(fmt.Sprintf("%s/ingests/sha256-%x-*/journal", cacheDir, sha256.Sum256(content))))
	if err != nil || len(journals) != 1 {
		t.Fatalf("journals of the download: %q (%v); want one", journals, err)
	}
	records, err := os.ReadFile(journals[0])
	if err != nil {
		t.Fatal(err)
	}
	pieces := map[int]int64{}
	for record := range slices.Chunk(records, 24) {
		i := int(binary.LittleEndian.Uint64(record))
		pieces[i] = fetcher.PieceAt(i, int64(len(content))).Size
	}
	var sum int64
	for _, n := range pieces {
		sum += n
	}
	return sum
}
