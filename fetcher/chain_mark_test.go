package fetcher_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// A file that the only Source within reach has wrong is not read whole again at each try
// of whoever waits for the others.
func TestACorruptFileIsNotReadAgainAtEachTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"w": filled(9*testPiece, 'w')})
		x.a.each, x.b.each = wrong, down
		tries := 0
		for began := time.Now(); time.Since(began) < 10*time.Minute; time.Sleep(2 * time.Second) {
			err := x.run(t.Context())
			var mismatch *fetcher.MismatchError
			if !fetcher.Transient(err) || !errors.As(err, &mismatch) || mismatch.Source != "a" {
				t.Fatalf("%v", err)
			}
			if tries++; tries == 2 { // a is not asked, and it is said why
				x.wantPassed("b w unreachable ", "a w mismatch ")
				if !strings.Contains(err.Error(), "w from a does not match") {
					t.Errorf("%v", err)
				}
			}
		}
		if whole := len(x.a.asked()) / 9; whole < 2 || whole > 12 {
			t.Errorf("the whole file was read %d times in %d tries of 10 minutes, and never right", whole, tries)
		}
	})
}

// The caller of one Revision is told nothing of another's with the same bytes.
func TestAMarkTellsNobodyWhereElseTheFileIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		same := filled(1500, 's')
		x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"secret": same, "open": same})
		x.a.each, x.b.each = wrong, down
		for _, path := range []string{"secret", "open"} {
			x.files = []fetcher.File{x.byPath[path]}
			clear(x.sink.partial)
			if err := x.run(t.Context()); err == nil || strings.Contains(err.Error(), "secret") != (path == "secret") {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

func TestWhoeverIsMendedWhileAMarkLastsIsFound(t *testing.T) {
	for _, c := range []struct {
		mended   string
		badFirst bool
		most     time.Duration
	}{{"a", true, 11 * time.Second}, {"a", false, 14 * time.Second}, {"b", true, 3 * time.Second}, {"b", false, 3 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			x := newChain(t, fetcher.EngineConfig{}, map[string][]byte{"f": filled(1500, 'f')})
			x.a.each, x.b.each = wrong, down
			if !c.badFirst {
				x.sources = []fetcher.Source{x.b, x.a}
				x.b.each = func(context.Context, ask, io.Reader) (io.Reader, error) { // which is no reason to rest
					return nil, &fetcher.RateLimitedError{RetryAfter: time.Minute, Err: errors.New("429")}
				}
			}
			if err := x.run(t.Context()); err == nil {
				t.Fatal("it came")
			}
			if c.mended == "a" {
				x.a.each = nil
			} else {
				x.b.each = nil
			}
			for began := time.Now(); x.run(t.Context()) != nil; time.Sleep(2 * time.Second) {
				if time.Since(began) > c.most {
					t.Fatalf("%s is mended and was not found within %s", c.mended, c.most)
				}
			}
			x.wantBytes(map[string]int64{c.mended: 1500})
		})
	}
}

// Two that are marked for what they gave together are asked for it alone, although one of
// them broke off.
func TestAMixWithASourceThatBreaksOffIsBroughtByEachAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newChain(t, fetcher.EngineConfig{Connections: 1}, map[string][]byte{"f": filled(4000, 'f')})
		x.a.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
			if a.off >= 2000 {
				return nil, errReset
			}
			return wrong(ctx, a, r)
		}
		if err := x.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.wantBytes(map[string]int64{"b": 4000})
	})
}
