package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// Model Express downloads a model itself before it opens one of its files.
func TestASourceThatTakesItsTimeToOpenHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := map[string][]byte{"README.md": filled(10, 'r'), "config.json": filled(20, 'c')}
		for i := range 20 {
			content[fmt.Sprintf("w%d", i)] = filled(5000+i, byte(i))
		}
		x := newChain(t, fetcher.EngineConfig{}, content)
		delete(x.a.content, "README.md")
		delete(x.a.content, "config.json")
		x.a.open = func(ctx context.Context, path string) error {
			if path[0] != 'w' {
				return nil
			}
			return wait(ctx, 30*time.Minute)
		}
		var mu sync.Mutex
		came := map[string]time.Duration{}
		began := time.Now()
		x.sink.verify = func(f fetcher.File) error {
			mu.Lock()
			defer mu.Unlock()
			if f.Size < 1000 {
				came[f.Path.String()] = time.Since(began)
			}
			return nil
		}
		if err := x.run(t.Context()); err != nil || x.took != 30*time.Minute {
			t.Fatalf("after %s: %v", x.took, err)
		}
		if len(came) != 2 || came["README.md"] != 0 || came["config.json"] != 0 {
			t.Errorf("the files that b has came after %v", came)
		}
		x.wantBytes(map[string]int64{"a": int64(x.progress) - 30, "b": 30})
	})
}

func TestAnOpenEndsWithItsFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(10, 'f')})
		x.a.open = func(ctx context.Context, _ string) error { return wait(ctx, time.Hour) }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := x.run(ctx); !errors.Is(err, context.DeadlineExceeded) || x.took != time.Minute || len(x.passed) != 0 {
			t.Errorf("after %s: %v; passed over: %q", x.took, err, x.passed)
		}
	})
}

func TestASequentialSourceIsReadInOrderByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(6000, 'f'), "g": filled(5000, 'g')})
		x.a.sequential = true
		var mu sync.Mutex
		at := map[string]int{}
		x.a.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
			mu.Lock()
			if at[a.path]++; at[a.path] > 1 {
				t.Errorf("two read %s at once", a.path)
			}
			mu.Unlock()
			err := wait(ctx, time.Second)
			mu.Lock()
			at[a.path]--
			mu.Unlock()
			if a.path == "f" && a.off == 3000 {
				return nil, errReset
			}
			return r, err
		}
		x.b.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) { return r, wait(ctx, time.Second) }
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		next := map[string]int64{}
		for _, a := range x.a.asked() {
			if a.off < next[a.path] {
				t.Errorf("%s was asked from %d after %d", a.path, a.off, next[a.path])
			}
			next[a.path] = a.off
		}
		x.wantBytes(map[string]int64{"a": 8000, "b": 3000})
		if x.b.atMost != 3 || x.a.atMost != 2 {
			t.Errorf("%d at once at b, %d at a", x.b.atMost, x.a.atMost)
		}
	})
}

// fewer is a Source that answers no more than n requests at once; others it refuses by err.
func (s *fakeSource) fewer(n int, err error) func(context.Context, ask, io.Reader) (io.Reader, error) {
	return func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) {
		s.mu.Lock()
		busy := s.busy
		s.mu.Unlock()
		if busy > n {
			return nil, err
		}
		return r, wait(ctx, time.Second)
	}
}

func TestFewerReadFromASourceThatAsksForLess(t *testing.T) {
	for name, refusal := range map[string]error{
		"429": &fetcher.RateLimitedError{RetryAfter: time.Second, Err: errors.New("429")},
		"503": &fetcher.UnreachableError{Err: fmt.Errorf("503: %w", fetcher.ErrBusy)},
		"502": &fetcher.UnreachableError{Err: errors.New("502")},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newChain(t, fetcher.EngineConfig{Connections: 16}, map[string][]byte{"f": filled(500_000, 'f')})
			x.sources = x.sources[:1]
			var refused atomic.Int32
			few := x.a.fewer(4, refusal)
			x.a.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
				r, err := few(ctx, a, r)
				if err != nil {
					refused.Add(1)
				}
				return r, err
			}
			err := x.run(t.Context())
			t.Logf("%s: %d of %d requests were refused in %s: %v", name, refused.Load(), len(x.a.asked()), x.took, err)
			if name == "502" { // a broken gateway: no less is asked of it
				return
			}
			if err != nil || int(refused.Load()) > len(x.a.asked())/3 || x.took > 4*time.Minute {
				t.Errorf("%s: %d of %d requests were refused in %s: %v", name, refused.Load(), len(x.a.asked()), x.took, err)
			}
		})
	}
}
