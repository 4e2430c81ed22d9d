package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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

func TestASourceThatStallsAfterItsFirstBytesCostsNotEveryFileAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, many())
		x.a.each = drips
		x.b.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) {
			return r, wait(ctx, 100*time.Millisecond)
		}
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(x.sink.here) != 1000 || x.took > 90*time.Second || len(x.a.asked()) > 20 {
			t.Errorf("%d files in %s, of which b alone takes 13 s; a was asked %d times", len(x.sink.here), x.took, len(x.a.asked()))
		}
	})
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

// Trouble with one Revision is not the Source's.
func TestASourceThatHasNotGotARevisionYetDoesNotRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, many())
		x.a.open = func(context.Context, string) error {
			return &fetcher.UnreachableError{Err: fmt.Errorf("its download failed: %w", fetcher.ErrNotYet)}
		}
		if err := x.run(t.Context()); err != nil || x.bytes["a"] != 0 {
			t.Fatalf("%v; %v", err, x.bytes)
		}
		x.a.open = nil
		x.again()
		if err := x.run(t.Context()); err != nil || x.bytes["b"] != 0 {
			t.Errorf("%v; it was not asked first at once: %v", err, x.bytes)
		}
	})
}

func TestOneFileTriesASourceThatRested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, many())
		x.a.each = down
		x.b.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) {
			return r, wait(ctx, 100*time.Millisecond)
		}
		all := x.files
		x.files = all[:8] // which fail together: one trouble, after which it rests for 2 s
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		x.again()
		x.files = all
		x.a.each = hang
		if err := x.run(t.Context()); err != nil || len(x.a.asked()) != 1 || x.took < 30*time.Second || x.took > 31*time.Second {
			t.Errorf("%v; a was asked %d times in %s", err, len(x.a.asked()), x.took)
		}
	})
}

// A Source that has not got the file of the one that tries is tried by the next.
func TestAnAnswerWithoutBytesLeavesOpenHowASourceIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"only b": filled(10, 'o'), "f": filled(20, 'f')})
		all := x.files
		x.a.each = down
		x.files = []fetcher.File{x.byPath["f"]}
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.again()
		time.Sleep(3 * time.Second)
		x.a.each = nil
		delete(x.a.content, "only b")
		for _, f := range []string{"only b", "f"} {
			x.files = []fetcher.File{x.byPath[f]}
			if err := x.run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		x.wantBytes(map[string]int64{"a": 20})
		x.files = all
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
