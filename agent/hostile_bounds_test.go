package agent_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bounds compares what a call took with what it may.
func bounds(t *testing.T, took, within time.Duration, grew, memory int64) {
	t.Helper()
	t.Logf("took %8s, heap + %5.1f MiB", took.Round(time.Millisecond), float64(grew)/(1<<20))
	if took > within {
		t.Errorf("the call took %s, more than %s", took, within)
	}
	if grew > memory {
		t.Errorf("the heap grew by %d bytes, more than %d", grew, memory)
	}
}

// measure runs f and returns how long it took, and how many bytes the heap had at
// most beyond those it had before: objects, those that are garbage included.
func measure(f func()) (took time.Duration, grew int64) {
	runtime.GC()
	before := heap()
	most := before
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				most = max(most, heap())
			case <-stop:
				return
			}
		}
	}()
	began := time.Now()
	f()
	took = time.Since(began)
	close(stop)
	<-stopped
	return took, max(most, heap()) - before
}

func heap() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

func blocks(info fs.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }

// fence returns a cache directory with neighbours, which must be what they were when
// the test ends.
func fence(t *testing.T) (cache string) {
	t.Helper()
	outer := t.TempDir()
	cache = filepath.Join(outer, "node", "cache")
	for _, canary := range []string{"canary", "etc/passwd", "node/canary", "node/views/canary", "node/blobs/canary", "node/cache.partial"} {
		p := filepath.Join(outer, canary)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte("untouched"), 0o644))
	}
	before := neighbours(t, outer, cache)
	t.Cleanup(func() {
		if after := neighbours(t, outer, cache); after != before {
			t.Errorf("beside the cache directory it was\n%sand is\n%s", before, after)
		}
	})
	return cache
}

func neighbours(t *testing.T, outer, cache string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(outer, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == cache {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err == nil && d.Type().IsRegular() {
			content, _ := os.ReadFile(p)
			fmt.Fprintf(&b, "%s %s %s %s\n", p, info.Mode(), info.ModTime(), content)
		} else if err == nil {
			fmt.Fprintf(&b, "%s %s\n", p, info.Mode())
		}
		return err
	}))
	return b.String()
}

// allocated returns how many bytes of the disk dir and all below it take.
func allocated(t *testing.T, dir string) (n int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += blocks(info)
		}
		return err
	}))
	return n
}
