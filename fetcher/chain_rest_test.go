package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// many is a thousand small files.
func many() map[string][]byte {
	content := map[string][]byte{}
	for i := range 1000 {
		content[fmt.Sprintf("f%d", i)] = fmt.Appendf(nil, "content %d", i)
	}
	return content
}

func TestASourceThatIsDownCostsNotEveryFileItsTries(t *testing.T) {
	for name, down := range map[string]func(x *chain){
		"at once":   func(x *chain) { x.a.each = down },
		"when open": func(x *chain) { x.a.open = func(context.Context, string) error { return errDown } },
		"in silence": func(x *chain) {
			x.a.each = hang
		},
		"in silence when open": func(x *chain) {
			x.a.open = func(ctx context.Context, _ string) error { return errors.Join(wait(ctx, 20*time.Second), errDown) }
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newChain(t, fetcher.EngineConfig{}, many())
			var opens atomic.Int32
			open := func(context.Context, string) error { return nil }
			down(x)
			if x.a.open != nil {
				open = x.a.open
			}
			x.a.open = func(ctx context.Context, path string) error { opens.Add(1); return open(ctx, path) }
			x.b.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) {
				return r, wait(ctx, 100*time.Millisecond)
			}
			if err := x.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(x.sink.here) != 1000 || x.took > 90*time.Second || len(x.a.asked()) > 100 || opens.Load() > 400 {
				t.Errorf("%s: %d files in %s; a was asked %d times, opened %d times", name, len(x.sink.here), x.took, len(x.a.asked()), opens.Load())
			}
		})
	}
}

func TestAllSourcesDownAndThenOneComesBack(t *testing.T) {
	for _, back := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			x := newChain(t, fetcher.EngineConfig{}, many())
			x.a.each, x.b.each = down, down
			for range 30 { // two minutes
				err := x.run(t.Context())
				if !fetcher.Unreachable(err) || x.took > 10*time.Second {
					t.Fatalf("after %s: %v", x.took, err)
				}
				if asked := len(x.a.asked()) + len(x.b.asked()); asked > 200 {
					t.Fatalf("a Fetch that came to nothing asked %d times", asked)
				}
				x.again()
				time.Sleep(2 * time.Second)
			}
			if back == "a" {
				x.a.each = nil
			} else {
				x.b.each = nil
			}
			if err := x.run(t.Context()); err != nil || x.took > 2*time.Second {
				t.Errorf("%s is back: after %s: %v", back, x.took, err)
			}
		})
	}
}

func TestASourceThatRestedComesFirstAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(10, 'f')})
		x.a.each = down
		for _, want := range []struct {
			after time.Duration
			asked int
		}{{0, 2}, {time.Second, 0}, {2 * time.Second, 2}, {3 * time.Second, 0}, {2 * time.Second, 2}} {
			time.Sleep(want.after)
			x.again()
			if err := x.run(t.Context()); err != nil || len(x.a.asked()) != want.asked {
				t.Errorf("%v; a was asked %d times, want %d", err, len(x.a.asked()), want.asked)
			}
		}
		x.a.each = nil
		time.Sleep(10 * time.Second)
		for range 2 {
			x.again()
			if err := x.run(t.Context()); err != nil || len(x.b.asked()) != 0 {
				t.Errorf("%v; b was asked %v", err, x.b.asked())
			}
		}
	})
}

// What only one Source has is brought while another is down, and then the Fetch fails.
func TestADownSourceOfSomeFilesKeepsNoOtherFromComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := many()
		content["weights"] = filled(50_000, 'w')
		x := newChain(t, fetcher.EngineConfig{}, content)
		for i := range 500 {
			delete(x.a.content, fmt.Sprintf("f%d", i))
		}
		x.b.each = down
		x.a.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) { return r, wait(ctx, time.Second) }
		err := x.run(t.Context())
		var all *fetcher.SourcesError
		if !errors.As(err, &all) || !fetcher.Unreachable(err) || !errors.Is(err, fetcher.ErrAbsent) {
			t.Fatalf("%v", err)
		}
		if len(x.sink.here) != 501 || len(x.b.asked()) > 100 || x.took > 3*time.Minute || x.failing[0].at > time.Minute {
			t.Errorf("%d files in %s, told after %s; b was asked %d times", len(x.sink.here), x.took, x.failing[0].at, len(x.b.asked()))
		}
	})
}

func TestASourceThatDeniesIsAskedOnce(t *testing.T) {
	for name, verdict := range map[string]error{
		"gated": fetcher.ErrGated, "no revision": fetcher.ErrRevisionNotFound,
		"a long limit": &fetcher.RateLimitedError{RetryAfter: time.Minute, Err: errors.New("429")},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newChain(t, fetcher.EngineConfig{}, many())
			x.a.each = func(context.Context, ask, io.Reader) (io.Reader, error) { return nil, verdict }
			if err := x.run(t.Context()); err != nil || len(x.a.asked()) > 8 {
				t.Errorf("%s: %v; a was asked %d times", name, err, len(x.a.asked()))
			}
			x.again()
			x.sources = []fetcher.Source{x.a}
			if err := x.run(t.Context()); !errors.Is(err, verdict) || len(x.a.asked()) > 8 {
				t.Errorf("%s, alone: %v; a was asked %d times", name, err, len(x.a.asked()))
			}
		})
	}
}

// Model Express downloads a model itself before it opens one of its files.
func TestASourceThatTakesItsTimeToOpenHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{})
		content := map[string][]byte{"README.md": filled(10, 'r'), "config.json": filled(20, 'c')}
		for i := range 20 {
			content[fmt.Sprintf("w%d", i)] = filled(5000+i, byte(i))
		}
		x = newChain(t, fetcher.EngineConfig{}, content)
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

func TestASourcesErrorIsAllThatWasSaid(t *testing.T) {
	f := fileOf(t, "f", []byte("f"))
	tried := func(errs ...error) error {
		e := &fetcher.SourcesError{File: f}
		for i, err := range errs {
			e.Tried = append(e.Tried, fetcher.Passed{Source: string(rune('a' + i)), File: f, Err: err})
		}
		return e
	}
	absent, denied := fmt.Errorf("f: %w", fetcher.ErrAbsent), fmt.Errorf("f: %w", fetcher.ErrGated)
	limited := &fetcher.RateLimitedError{RetryAfter: time.Minute, Err: errors.New("429")}
	for _, c := range []struct {
		err                            error
		transient, unreachable, denied bool
		text                           string
	}{
		{tried(absent), false, false, false, "f: not to be had there"},
		{tried(absent, errDown), true, true, false, "no source gave f: a: f: not to be had there; b: connection refused"},
		{tried(errDown, denied), true, true, true, ""},
		{tried(absent, limited), true, false, false, ""},
		{tried(absent, denied), false, false, true, ""},
		{tried(&fetcher.MismatchError{File: f, Source: "a"}, absent), false, false, false, ""},
		{tried(), false, false, false, "there is no source for f"},
	} {
		if fetcher.Transient(c.err) != c.transient || fetcher.Unreachable(c.err) != c.unreachable || fetcher.Denied(c.err) != c.denied ||
			!strings.HasPrefix(c.err.Error(), c.text) {
			t.Errorf("%v: transient %v, unreachable %v, denied %v", c.err, fetcher.Transient(c.err), fetcher.Unreachable(c.err), fetcher.Denied(c.err))
		}
	}
	var mismatch *fetcher.MismatchError
	if !slices.ContainsFunc([]error{tried(absent, &fetcher.MismatchError{File: f})}, func(err error) bool { return errors.As(err, &mismatch) }) {
		t.Error("a mismatch is not found")
	}
}
