package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestTheFirstSourceThatHasAFileGivesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"both": filled(2500, 'x'), "only b": filled(1500, 'y'), "empty": {}})
		delete(x.a.content, "only b")
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.fetch.source.content = x.b.content
		x.wantHere("both", "only b", "empty")
		x.wantBytes(map[string]int64{"a": 2500, "b": 1500})
		x.wantPassed("a only b absent b")
		if x.took != 0 || len(x.b.opened) != 1 || x.a.opened["empty"]+x.b.opened["empty"] != 0 {
			t.Errorf("after %s b had opened %v, a %v", x.took, x.b.opened, x.a.opened)
		}
	})
}

func TestWhatASourceLeavesComesFromTheNext(t *testing.T) {
	for _, c := range []struct {
		name  string
		each  func(context.Context, ask, io.Reader) (io.Reader, error)
		why   string
		tries int
		least time.Duration
	}{
		{"it breaks off", broken(100), "unreachable", 2, firstBackoff / 2},
		{"it stalls", hang, "stalled", 1, 30 * time.Second},
		{"it refuses", func(context.Context, ask, io.Reader) (io.Reader, error) { return nil, fetcher.ErrForbidden }, "denied", 1, 0},
		{"it asks to wait", func(context.Context, ask, io.Reader) (io.Reader, error) {
			return nil, &fetcher.RateLimitedError{RetryAfter: time.Minute, Err: errors.New("429")}
		}, "rate_limited", 1, 0},
		{"it fails", func(context.Context, ask, io.Reader) (io.Reader, error) { return nil, errors.New("I/O error") }, "failed", 1, 0},
		{"its file is gone", func(context.Context, ask, io.Reader) (io.Reader, error) { return nil, fetcher.ErrEntryNotFound }, "absent", 1, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newChain(t, fetcher.EngineConfig{Connections: 1}, map[string][]byte{"f": filled(4500, 'f')})
			x.a.each = at(2000, c.each)
			if err := x.run(t.Context()); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			x.fetch.source.content = x.b.content
			x.wantHere("f")
			x.wantBytes(map[string]int64{"a": 2000, "b": 2500})
			x.wantPassed("a f " + c.why + " b")
			if tries := len(x.a.asked()) - 2; tries != c.tries || x.took < c.least || x.took > c.least+time.Second {
				t.Errorf("%s: %d tries in %s", c.name, tries, x.took)
			}
			if got := x.b.offsets(); !slices.Equal(got, []int64{2000, 3000, 4000}) {
				t.Errorf("%s: b was asked from %v", c.name, got)
			}
		})
	}
}

// What flows when another Piece breaks off is not thrown away, and is not waited for.
func TestPiecesThatFlowStayWithTheirSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{Connections: 2}, map[string][]byte{"f": filled(6000, 'f')})
		x.a.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
			if a.off == 0 {
				return r, wait(ctx, 20*time.Second)
			}
			return nil, errReset
		}
		var done time.Duration
		x.b.each = func(_ context.Context, _ ask, r io.Reader) (io.Reader, error) {
			done = time.Since(x.b.started)
			return r, nil
		}
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.wantBytes(map[string]int64{"a": 1000, "b": 5000})
		if x.took != 20*time.Second || done > time.Second {
			t.Errorf("all came in %s, what b gave in %s", x.took, done)
		}
	})
	synctest.Test(t, func(t *testing.T) { // and if it fails later, it goes where the others went
		x := newChain(t, fetcher.EngineConfig{Connections: 2}, map[string][]byte{"f": filled(6000, 'f')})
		x.a.each = func(ctx context.Context, a ask, _ io.Reader) (io.Reader, error) {
			if a.off == 0 {
				return nil, errors.Join(wait(ctx, 20*time.Second), errReset)
			}
			return nil, errReset
		}
		x.b.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) { return r, wait(ctx, 10*time.Second) }
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.wantBytes(map[string]int64{"b": 6000})
		x.wantPassed("a f unreachable b")
	})
}

func TestAFileThatDoesNotMatchComesWholeFromTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"bad": filled(3500, 'b'), "good": filled(2500, 'g')})
		x.a.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
			if a.path == "bad" && a.off == 1000 {
				return wrong(ctx, a, r)
			}
			return r, nil
		}
		for n, want := range []struct {
			after  time.Duration
			passed []string
			a      int // Pieces of the bad file that a was asked for
		}{
			{0, []string{"a bad mismatch b"}, 4},
			{9 * time.Second, nil, 0}, // the mark lasts 10 s
			{2 * time.Second, []string{"a bad mismatch b"}, 4},
			{19 * time.Second, nil, 0}, // 20 s now
			{2 * time.Second, []string{"a bad mismatch b"}, 4},
		} {
			time.Sleep(want.after)
			x.again()
			if err := x.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			x.fetch.source.content = x.b.content
			x.wantHere("bad", "good")
			x.wantBytes(map[string]int64{"a": 2500, "b": 3500})
			x.wantPassed(want.passed...)
			if asked := slices.DeleteFunc(x.a.asked(), func(a ask) bool { return a.path != "bad" }); len(asked) != want.a {
				t.Errorf("fetch %d: a was asked for %d pieces of the bad file, want %d", n, len(asked), want.a)
			}
		}
	})
}

func TestAMarkedSourceThatWasMendedIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(1500, 'f')})
		x.a.each, x.b.each = wrong, wrong
		var all *fetcher.SourcesError
		var mismatch *fetcher.MismatchError
		err := x.run(t.Context())
		if !errors.As(err, &all) || len(all.Tried) != 2 || !errors.As(err, &mismatch) || mismatch.Source != "a" || fetcher.Transient(err) {
			t.Fatalf("%v", err)
		}
		for _, want := range []string{"f from a does not match", "f from b does not match", "org/name@0123456", "no source gave f"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		x.wantBytes(nil)
		x.wantPassed("a f mismatch b", "b f mismatch ")
		x.a.each = nil // mended; both are marked
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.wantBytes(map[string]int64{"a": 1500})
		x.again()
		if err := x.run(t.Context()); err != nil || len(x.b.asked()) != 0 { // a's mark is gone
			t.Errorf("%v; b was asked %v", err, x.b.asked())
		}
	})
}

func TestAMarkEndsWithTheFirstRightBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(1500, 'f')})
		x.a.each = wrong
		for n, want := range []string{"b", "b", "a", "a"} {
			switch n {
			case 1:
				x.a.each = nil // mended, and still marked
			case 2:
				delete(x.b.content, "f")
			case 3:
				x.b.content["f"] = x.a.content["f"]
			}
			x.again()
			if err := x.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			x.wantBytes(map[string]int64{want: 1500})
		}
	})
}

// Which of two spoilt a file is not known: each is marked, and then each may bring it alone.
func TestAMixOfTwoSourcesThatDoesNotMatchIsBroughtByEachAlone(t *testing.T) {
	for _, liar := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			x := newChain(t, fetcher.EngineConfig{Connections: 1}, map[string][]byte{"f": filled(4000, 'f')})
			lying := func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) { return wrong(ctx, a, r) }
			broke := false
			x.a.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
				switch {
				case a.off == 2000 && !broke:
					broke = true
					return nil, errors.New("I/O error")
				case liar == "a":
					return lying(ctx, a, r)
				}
				return r, nil
			}
			if liar == "b" {
				x.b.each = lying
			}
			if err := x.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			x.fetch.source.content = x.c.content
			x.wantHere("f")
			if liar == "a" {
				x.wantBytes(map[string]int64{"b": 4000})
				x.wantPassed("a f failed b", "a f mismatch b", "b f mismatch b")
			} else {
				x.wantBytes(map[string]int64{"a": 4000})
				x.wantPassed("a f failed b", "a f mismatch b", "b f mismatch b", "b f mismatch a")
			}
		})
	}
}

func TestTwoLiarsThatMixHaveAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(4000, 'f')})
		failsAt := func(off int64) func(context.Context, ask, io.Reader) (io.Reader, error) {
			return func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
				if a.off == off { // when the others have begun
					return nil, errors.Join(wait(ctx, time.Second), errors.New("I/O error"))
				}
				return wrong(ctx, a, r)
			}
		}
		x.a.each, x.b.each = failsAt(2000), failsAt(0) // so that whoever begins, the other ends it
		var mismatch *fetcher.MismatchError
		if err := x.run(t.Context()); !errors.As(err, &mismatch) || len(x.passed) != 6 || strings.Count(err.Error(), ": ") > 12 {
			t.Errorf("%v; passed over: %q", err, x.passed)
		}
	})
}

// Bytes that an earlier Fetch left may be anybody's: nobody is blamed for them.
func TestAMismatchWithPiecesOfAnEarlierFetchMarksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(4000, 'f')})
		held := &memIngest{sink: x.sink, file: x.byPath["f"], data: filled(4000, 'X'), held: map[int]bool{1: true, 2: true}}
		x.sink.partial[held.file.Digest] = held
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.wantPassed()
		x.wantBytes(map[string]int64{"a": 4000, "": -2000})
		x.again()
		if err := x.run(t.Context()); err != nil || len(x.b.asked()) != 0 {
			t.Errorf("%v; b was asked: %v", err, x.b.asked())
		}
	})
	synctest.Test(t, func(t *testing.T) { // all of it was held
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(4000, 'f')})
		x.a.each = wrong
		held := &memIngest{sink: x.sink, file: x.byPath["f"], data: filled(4000, 'X'), held: map[int]bool{0: true, 1: true, 2: true, 3: true}}
		x.sink.partial[held.file.Digest] = held
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.wantPassed("a f mismatch b")
		x.wantBytes(map[string]int64{"b": 4000, "": -4000})
	})
}

func TestAnEmptyFileOfAnotherDigestIsTheManifestsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(10, 'f')})
		x.files[0].Size = 0
		if err := x.run(t.Context()); !errors.Is(err, fetcher.ErrMalformed) || fetcher.Transient(err) || len(x.a.opened) != 0 {
			t.Errorf("%v", err)
		}
	})
}

func TestOneFileThatNobodyHasKeepsNoOtherFromComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := map[string][]byte{}
		for i := range 50 {
			content[fmt.Sprintf("f%d", i)] = filled(5000-i, byte(i))
		}
		x := newChain(t, fetcher.EngineConfig{Connections: 2}, content)
		x.a.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) { return r, wait(ctx, 10*time.Second) }
		delete(x.a.content, "f20")
		delete(x.b.content, "f20")
		err := x.run(t.Context())
		var all *fetcher.SourcesError
		if !errors.As(err, &all) || all.File.Path.String() != "f20" || !errors.Is(err, fetcher.ErrAbsent) || fetcher.Transient(err) {
			t.Errorf("%v", err)
		}
		if len(x.sink.here) != 49 || x.took < 20*time.Minute {
			t.Errorf("%d files came in %s", len(x.sink.here), x.took)
		}
		if x.failing[0].at != 0 {
			t.Errorf("it was told after %s", x.failing[0].at)
		}
		x.wantPassed("a f20 absent b", "b f20 absent ")
	})
}
