package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// broken gives n bytes of every request and then cuts the connection.
func broken(n int64) func(context.Context, ask, io.Reader) (io.Reader, error) {
	cut := &fetcher.UnreachableError{Err: errors.New("connection reset")}
	return func(_ context.Context, _ ask, r io.Reader) (io.Reader, error) {
		return io.MultiReader(io.LimitReader(r, n), readFunc(func([]byte) (int, error) { return 0, cut })), nil
	}
}

func TestPieceThatFailsIsTakenUpWhereItBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mib = 1 << 20
		x := newFetch(t, map[string][]byte{"f": bytes.Repeat([]byte("0123456789abcdef"), 10*mib/16)})
		x.sink.piece = 10 * mib
		x.source.each = broken(mib)
		if err := x.run(t.Context(), fetcher.EngineConfig{}); err != nil {
			t.Fatal(err)
		}
		x.wantHere("f")
		for i, a := range x.source.asked() {
			if a.off != int64(i)*mib || a.off+a.n != 10*mib {
				t.Errorf("request %d is %+v", i, a)
			}
		}
		if x.progress != 10*mib || x.took < 9*firstBackoff/2 || x.took > 9*firstBackoff*3/2 {
			t.Errorf("progress %d bytes, nine waits took %s", x.progress, x.took)
		}
	})
}

func TestSourceThatGivesLittleAndCutsIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"f": filled(4<<20, 'f')})
		x.sink.piece = 4 << 20
		x.source.each = broken(1<<18 - 1) // four times are less than 1 MiB
		err := x.run(t.Context(), fetcher.EngineConfig{})
		asks := x.source.asked()
		if !fetcher.Unreachable(err) || len(asks) != 5 || x.progress != 0 {
			t.Fatalf("%d requests, progress %d bytes: %v", len(asks), x.progress, err)
		}
		for i, base := 1, firstBackoff; i < 5; i, base = i+1, 2*base {
			if gap := asks[i].at - asks[i-1].at; gap < base/2 || gap > base*3/2 || asks[i].off != int64(i)*(1<<18-1) {
				t.Errorf("request %d came %s after the one before, from byte %d", i, gap, asks[i].off)
			}
		}
	})
}

const firstBackoff = 250 * time.Millisecond

func TestPieceWithoutProgressIsGivenUpAfterFiveTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"f": filled(10, 'f')})
		x.source.each = func(context.Context, ask, io.Reader) (io.Reader, error) {
			return nil, &fetcher.UnreachableError{Err: errors.New("502 for f of org/name")}
		}
		err := x.run(t.Context(), fetcher.EngineConfig{})
		if !fetcher.Unreachable(err) || !strings.Contains(err.Error(), "502 for f of org/name") {
			t.Errorf("%v", err)
		}
		asks := x.source.asked()
		if len(asks) != 5 {
			t.Fatalf("it was asked for %d times", len(asks))
		}
		for i, base := 1, firstBackoff; i < 5; i, base = i+1, 2*base {
			if gap := asks[i].at - asks[i-1].at; gap < base/2 || gap > base*3/2 {
				t.Errorf("wait %d was %s, want about %s", i, gap, base)
			}
		}
	})
}

func TestRateLimitIsWaitedOutUnlessItIsLong(t *testing.T) {
	for asked, waited := range map[time.Duration]bool{9 * time.Second: true, 4 * time.Minute: false} {
		synctest.Test(t, func(t *testing.T) {
			x := newFetch(t, map[string][]byte{"f": filled(10, 'f')})
			first := true
			x.source.each = func(_ context.Context, _ ask, r io.Reader) (io.Reader, error) {
				if first {
					first = false
					return nil, &fetcher.RateLimitedError{RetryAfter: asked, Err: errors.New("429")}
				}
				return r, nil
			}
			err := x.run(t.Context(), fetcher.EngineConfig{})
			var limited *fetcher.RateLimitedError
			switch {
			case waited && (err != nil || x.took < asked || x.took > asked+time.Second):
				t.Errorf("asked to wait %s it took %s: %v", asked, x.took, err)
			case !waited && (!errors.As(err, &limited) || limited.RetryAfter != asked || x.took > time.Second):
				t.Errorf("asked to wait %s it took %s: %v; want the RateLimitedError at once", asked, x.took, err)
			}
		})
	}
}

func TestAWaitToTryAgainEndsWithTheFetch(t *testing.T) {
	for name, end := range map[string]func(x *fetch, cancel func()){
		"by the caller":        func(x *fetch, cancel func()) { time.AfterFunc(time.Second, cancel) },
		"by another's failure": func(x *fetch, _ func()) { x.sink.verify = func(fetcher.File) error { return fetcher.ErrMalformed } },
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newFetch(t, map[string][]byte{"limited": filled(10, 'f'), "other": filled(5, 'o')})
			x.source.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
				if a.path == "limited" {
					return nil, &fetcher.RateLimitedError{RetryAfter: 9 * time.Second, Err: errors.New("429")}
				}
				return r, wait(ctx, time.Second)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			end(x, cancel)
			if err := x.run(ctx, fetcher.EngineConfig{}); err == nil || fetcher.Transient(err) || x.took > 2*time.Second {
				t.Errorf("%s: after %s: %v", name, x.took, err)
			}
		})
	}
}

func TestStalledReadIsCutAndTriedAgain(t *testing.T) {
	for name, hang := range map[string]func(ctx context.Context, r io.Reader) (io.Reader, error){
		"before the headers": func(ctx context.Context, _ io.Reader) (io.Reader, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		},
		"in the middle": func(ctx context.Context, r io.Reader) (io.Reader, error) {
			return io.MultiReader(io.LimitReader(r, 400), readFunc(func([]byte) (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			})), nil
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newFetch(t, map[string][]byte{"f": filled(1000, 'f')})
			calls := 0
			x.source.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) {
				if calls++; calls == 1 {
					return hang(ctx, r)
				}
				return r, nil
			}
			err := x.run(t.Context(), fetcher.EngineConfig{Stall: 7 * time.Second})
			if err != nil || calls != 2 || x.took < 7*time.Second || x.took > 8*time.Second {
				t.Errorf("%s: %d requests, %s: %v", name, calls, x.took, err)
			}
			x.wantHere("f")
		})
	}
}

func TestSourceThatAlwaysStallsIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"f": filled(1000, 'f')})
		x.source.each = func(ctx context.Context, _ ask, _ io.Reader) (io.Reader, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		err := x.run(t.Context(), fetcher.EngineConfig{})
		if !fetcher.Unreachable(err) || !strings.Contains(err.Error(), "stalled with 0 bytes in 30s") || !strings.Contains(err.Error(), "f of org/name") {
			t.Errorf("%v", err)
		}
	})
}

// trickle gives n bytes after every pause.
func trickle(n int, pause time.Duration) func(context.Context, ask, io.Reader) (io.Reader, error) {
	return func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) {
		return readFunc(func(b []byte) (int, error) {
			if err := wait(ctx, pause); err != nil {
				return 0, err
			}
			return r.Read(b[:min(n, len(b))])
		}), nil
	}
}

func TestSlowSourceIsReadAndATrickleIsAStall(t *testing.T) {
	for _, c := range []struct {
		name     string
		each     func(context.Context, ask, io.Reader) (io.Reader, error)
		requests int
	}{
		{"2 KiB a second", trickle(2<<10, time.Second), 1},
		{"40 KiB, the first after 29 s", trickle(40<<10, 29*time.Second), 1},
		{"1000 bytes a second", trickle(1000, time.Second), 5},
		{"a byte every 29 s", trickle(1, 29*time.Second), 5},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newFetch(t, map[string][]byte{"f": filled(600<<10, 'f')})
			x.sink.piece = 600 << 10
			x.source.each = c.each
			err := x.run(t.Context(), fetcher.EngineConfig{})
			if len(x.source.asked()) != c.requests || (c.requests > 1) != fetcher.Unreachable(err) || c.requests == 1 && err != nil {
				t.Errorf("%s: %d requests in %s: %v", c.name, len(x.source.asked()), x.took, err)
			}
			if c.requests > 1 && x.took > 160*time.Second {
				t.Errorf("%s: given up after %s", c.name, x.took)
			}
		})
	}
}

// A disk that takes its time is no stall.
func TestWatchdogWaitsForTheSourceOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"f": filled(20, 'f')})
		e, err := fetcher.NewEngine(fetcher.EngineConfig{})
		if err != nil {
			t.Fatal(err)
		}
		err = e.Fetch(t.Context(), x.job(slowSink{x.sink}))
		if err != nil || len(x.source.asked()) != 1 {
			t.Errorf("slow disk: %v, %d requests", err, len(x.source.asked()))
		}
	})
}

// slowSink writes a byte a minute.
type slowSink struct{ *memSink }

func (s slowSink) Begin(ctx context.Context, f fetcher.File) (fetcher.Ingest, error) {
	in, err := s.memSink.Begin(ctx, f)
	return slowIngest{in.(*memIngest)}, err
}

func (s slowSink) Commit(ctx context.Context, ins []fetcher.Ingest) error {
	for i := range ins {
		ins[i] = ins[i].(slowIngest).memIngest
	}
	return s.memSink.Commit(ctx, ins)
}

type slowIngest struct{ *memIngest }

func (in slowIngest) WritePiece(p fetcher.Piece, r io.Reader) error {
	return in.memIngest.WritePiece(p, readFunc(func(b []byte) (int, error) {
		n, err := r.Read(b[:1])
		<-time.After(time.Minute)
		return n, err
	}))
}

func TestSourceThatGivesMoreOrLessIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"f": filled(2000, 'f')})
		x.source.each = func(_ context.Context, a ask, r io.Reader) (io.Reader, error) {
			all, err := io.ReadAll(io.MultiReader(r, strings.NewReader("and more")))
			return bytes.NewReader(all), err
		}
		x.sink.greedy = true
		if err := x.run(t.Context(), fetcher.EngineConfig{}); err != nil || x.progress != 2000 {
			t.Errorf("more: %v, %d bytes", err, x.progress)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"f": filled(1000, 'f')})
		x.source.each = func(_ context.Context, _ ask, r io.Reader) (io.Reader, error) { return strings.NewReader(""), nil }
		if err := x.run(t.Context(), fetcher.EngineConfig{}); !fetcher.Unreachable(err) || !strings.Contains(err.Error(), "ends early") {
			t.Errorf("less: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"f": filled(1000, 'f')})
		x.source.each = func(_ context.Context, _ ask, r io.Reader) (io.Reader, error) {
			return readFunc(func([]byte) (int, error) { return 0, nil }), nil
		}
		if err := x.run(t.Context(), fetcher.EngineConfig{}); !fetcher.Unreachable(err) {
			t.Errorf("nothing at all: %v", err)
		}
	})
}

func TestPermanentErrorAfterSomeBytesIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"f": filled(1000, 'f')})
		gone := fmt.Errorf("read f: %w", fetcher.ErrForbidden)
		for _, together := range []bool{true, false} {
			var asks atomic.Int32
			x.source.each = func(_ context.Context, _ ask, r io.Reader) (io.Reader, error) {
				asks.Add(1)
				given := false
				return readFunc(func(b []byte) (int, error) {
					if given {
						return 0, gone
					}
					given = true
					n, _ := r.Read(b[:10])
					if together {
						return n, gone
					}
					return n, nil
				}), nil
			}
			x.source.opened, x.source.closed = map[string]int{}, 0
			if err := x.run(t.Context(), fetcher.EngineConfig{}); !errors.Is(err, fetcher.ErrForbidden) || asks.Load() != 1 || x.progress != 0 {
				t.Errorf("together %v: %v after %d requests, progress %d", together, err, asks.Load(), x.progress)
			}
		}
	})
}
