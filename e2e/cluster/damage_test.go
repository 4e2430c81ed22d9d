package cluster

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFlippedBitIsNeverMounted: neither in a file of LFS nor in one of git. Once the
// source is clean again the pod starts by itself, and no other file was fetched twice.
func TestFlippedBitIsNeverMounted(t *testing.T) {
	w := theWorld(t)
	ns := w.namespace(t)
	for _, c := range []struct{ name, path string }{
		{"lfs", "model-00001-of-00001.safetensors"},
		{"git", "config.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := w.named(t, "org/flipped-"+c.name)
			restore := w.hub.Flip(m.repo, c.path, int64(len(m.files[c.path])/2))
			defer restore()
			volume := inline(m.repo)
			p := w.create(t, w.pod(ns, c.name, &volume))
			said := w.eventOf(t, p, 20*time.Second, m.repo, c.path+" from hub does not match its digest", "nothing of it was kept or mounted")
			w.nothingFor(t, p)
			damaged := slices.Clone(m.files[c.path])
			damaged[len(damaged)/2] ^= 1
			sum := fmt.Sprintf("%x", sha256.Sum256(damaged))
			for path, state := range w.kept(t) {
				if strings.Contains(state, sum) && !strings.HasPrefix(path, "ingests/") {
					t.Errorf("damaged bytes became %s", path)
				}
			}
			restore()
			clean := time.Now()
			started := w.running(t, p, 30*time.Second).running
			w.check(t, p, modelDir, m, "")
			if left := w.unfinished(t); len(left) > 0 {
				t.Errorf("left of what was damaged: %v", left)
			}

			times := map[int64]int{} // how many files were sent how often
			for path, sent := range w.hub.Traffic(m.repo).Bytes {
				n := sent / int64(len(m.files[path]))
				switch {
				case sent != n*int64(len(m.files[path])):
					t.Errorf("%s: %d bytes were sent, in part", path, sent)
				case path == c.path && n < 2, path != c.path && n != 1:
					t.Errorf("%s was sent %d times", path, n)
				}
				times[n]++
			}
			t.Logf("%s\nfiles by how often each was sent: %v; running %s after the source was clean", said, times, round(started.Sub(clean)))
			w.remove(t, p, 30*time.Second)
			w.noTraces(t, p, 10*time.Second)
		})
	}
}
