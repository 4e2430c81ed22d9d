package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestMismatchNamesFileAndSourceWhileOthersAreCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"good": filled(3500, 'g'), "bad": filled(2500, 'b'), "fine": filled(10, 'f')})
		x.startAt(map[string]time.Duration{"bad": 1})
		x.source.each = func(_ context.Context, a ask, r io.Reader) (io.Reader, error) {
			if a.path == "bad" && a.off == 1000 {
				return bytes.NewReader(filled(1000, 'X')), nil
			}
			return r, nil
		}
		err := x.run(t.Context(), fetcher.EngineConfig{Connections: 100})
		var mismatch *fetcher.MismatchError
		if !errors.As(err, &mismatch) || mismatch.File.Path.String() != "bad" || mismatch.Source != "fake" || fetcher.Transient(err) {
			t.Fatalf("%v", err)
		}
		for _, want := range []string{"org/name@0123456", "bad", "from fake", mismatch.File.Digest.String()} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		x.wantHere("good", "fine")
		if x.progress != 3510 {
			t.Errorf("progress is %d bytes after the bad file was dropped", x.progress)
		}
	})
}

func TestPermanentErrorHandsOutNothingMoreAndKeepsWhatIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"done": filled(9000, 'd'), "underway": filled(2000, 'u'), "denied": filled(1500, 'e'), "later": filled(1000, 'l')})
		x.startAt(map[string]time.Duration{"underway": 1, "denied": 2, "later": time.Second / 2})
		x.source.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
			switch a.path {
			case "denied":
				return nil, errors.Join(wait(ctx, time.Second), fmt.Errorf("read denied of org/name: %w", fetcher.ErrGated))
			case "underway":
				return r, wait(ctx, 5*time.Second)
			}
			return r, nil
		}
		err := x.run(t.Context(), fetcher.EngineConfig{Connections: 3})
		if !errors.Is(err, fetcher.ErrGated) || x.took != 5*time.Second+1 {
			t.Fatalf("after %s: %v", x.took, err)
		}
		if x.failing[0].at != time.Second+2 {
			t.Errorf("Failing was called after %s, want it before the drain", x.failing[0].at)
		}
		x.wantHere("done", "underway")
		for _, a := range x.source.asked() {
			if a.path == "later" || a.path == "denied" && a.off > 0 {
				t.Errorf("%+v was asked for after the error", a)
			}
		}
	})
}

// What was under way when another file failed may end, but not for ever.
func TestPermanentErrorIsNotHeldUpByATrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"trickle": filled(100<<10, 't'), "denied": filled(10, 'd')})
		x.sink.piece = 100 << 10
		x.startAt(map[string]time.Duration{"denied": 1})
		x.source.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
			if a.path == "denied" {
				return nil, fetcher.ErrForbidden
			}
			return readFunc(func(b []byte) (int, error) {
				if err := wait(ctx, time.Second); err != nil {
					return 0, err
				}
				return r.Read(b[:2<<10])
			}), nil
		}
		if err := x.run(t.Context(), fetcher.EngineConfig{}); !errors.Is(err, fetcher.ErrForbidden) || x.took != 30*time.Second+1 {
			t.Errorf("after %s: %v", x.took, err)
		}
		if x.progress != 0 {
			t.Errorf("progress is %d bytes of pieces that were not kept", x.progress)
		}
	})
}

func TestFilesStillBeginningEndWithTheFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"denied": filled(10, 'd'), "waits": filled(2000, 'w'), "deaf": filled(1000, 'x')})
		x.sink.begin = func(ctx context.Context, f fetcher.File) error {
			switch f.Path.String() {
			case "waits":
				return wait(ctx, time.Hour)
			case "deaf":
				return wait(context.WithoutCancel(ctx), 5*time.Second)
			}
			return nil
		}
		x.source.each = func(_ context.Context, a ask, r io.Reader) (io.Reader, error) {
			if a.path != "denied" {
				t.Errorf("%+v", a)
			}
			return nil, fetcher.ErrForbidden
		}
		if err := x.run(t.Context(), fetcher.EngineConfig{}); !errors.Is(err, fetcher.ErrForbidden) || x.took != 5*time.Second {
			t.Errorf("after %s: %v", x.took, err)
		}
		x.wantHere()
	})
}

func TestCancelledFetchEndsAtOnceAndCommitsWhatIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"done": filled(5000, 'd'), "half": filled(2000, 'h'), "waits": filled(20, 'w')})
		ctx, cancel := context.WithCancelCause(t.Context())
		because := errors.New("the last waiter is gone")
		verified := make(chan struct{})
		x.sink.verify = func(fetcher.File) error { close(verified); return nil }
		x.sink.commit = func(int) error { return wait(t.Context(), time.Second) }
		x.sink.begin = func(ctx context.Context, f fetcher.File) error {
			return wait(ctx, map[string]time.Duration{"done": 1, "waits": time.Hour}[f.Path.String()])
		}
		x.source.each = func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
			if a.path == "half" && a.off == 1000 {
				<-verified
				cancel(because)
				return r, wait(ctx, time.Hour)
			}
			return r, nil
		}
		if err := x.run(ctx, fetcher.EngineConfig{Connections: 4}); !errors.Is(err, because) || fetcher.Transient(err) || x.took != time.Second+1 {
			t.Errorf("after %s: %v", x.took, err)
		}
		x.wantHere("done")
		if half := x.sink.partial[x.byPath["half"].Digest]; !half.held[0] || half.held[1] || x.progress != 6000 {
			t.Errorf("held of the half file: %v, progress %d bytes", half.held, x.progress)
		}
	})
}

func TestErrorsOfTheSinkNameTheFile(t *testing.T) {
	full := errors.New("no space left")
	for name, break_ := range map[string]func(*memSink){
		"begin":  func(s *memSink) { s.begin = func(context.Context, fetcher.File) error { return full } },
		"write":  func(s *memSink) { s.write = func(fetcher.File, fetcher.Piece) error { return full } },
		"verify": func(s *memSink) { s.verify = func(fetcher.File) error { return full } },
		"commit": func(s *memSink) { s.commit = func(int) error { return full } },
		"close":  func(s *memSink) { s.close = func(fetcher.File) error { return full } },
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newFetch(t, map[string][]byte{"the/file": filled(1500, 'f')})
			break_(x.sink)
			err := x.run(t.Context(), fetcher.EngineConfig{})
			if !errors.Is(err, full) || fetcher.Transient(err) || !strings.Contains(err.Error(), "org/name") ||
				name != "commit" && !strings.Contains(err.Error(), "the/file") {
				t.Errorf("%s: %v", name, err)
			}
			if x.took != 0 {
				t.Errorf("%s: it was tried again for %s", name, x.took)
			}
		})
	}
}

func TestNewEngineRefusesNegativeNumbers(t *testing.T) {
	for _, cfg := range []fetcher.EngineConfig{{Connections: -1}, {Stall: -1}, {Ahead: -1}} {
		if _, err := fetcher.NewEngine(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
