package fetcher_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// fetch is one Fetch of content, with what came of it.
type fetch struct {
	t        *testing.T
	files    []fetcher.File
	byPath   map[string]fetcher.File
	source   *fakeSource
	sink     *memSink
	progress int64
	failing  []failure
	took     time.Duration
}

// failure is one call of Job.Failing.
type failure struct {
	err error
	at  time.Duration // since Fetch began
}

func newFetch(t *testing.T, content map[string][]byte) *fetch {
	x := &fetch{t: t, byPath: map[string]fetcher.File{}, source: newSource(content), sink: newSink()}
	for path, c := range content {
		f := fileOf(t, path, c)
		x.files, x.byPath[path] = append(x.files, f), f
	}
	return x
}

func (x *fetch) job(sink fetcher.Sink) fetcher.Job {
	return fetcher.Job{Sources: []fetcher.Source{x.source}, Revision: testRevision, Files: x.files, Credential: fetcher.NewSecret("token"), Sink: sink}
}

func (x *fetch) run(ctx context.Context, cfg fetcher.EngineConfig) error {
	x.t.Helper()
	e, err := fetcher.NewEngine(cfg)
	if err != nil {
		x.t.Fatal(err)
	}
	began := time.Now()
	x.failing = nil
	job := x.job(x.sink)
	job.Progress = func(_ string, n int64) { x.progress += n }
	job.Failing = func(err error) { x.failing = append(x.failing, failure{err, time.Since(began)}) }
	err = e.Fetch(ctx, job)
	x.took = time.Since(began)
	if x.sink.open != 0 || x.source.busy != 0 {
		x.t.Errorf("%d ingests and %d requests are open", x.sink.open, x.source.busy)
	}
	if opened := len(x.source.opened); x.source.closed != opened {
		x.t.Errorf("%d of %d objects were closed", x.source.closed, opened)
	}
	for path, n := range x.source.opened {
		if n != 1 {
			x.t.Errorf("%s was opened %d times", path, n)
		}
	}
	if err == nil && len(x.failing) != 0 || err != nil && (len(x.failing) != 1 || x.failing[0].err != err) {
		x.t.Errorf("Failing was told %v, Fetch returned %v", x.failing, err)
	}
	return err
}

// startAt delays the Begin of some files: goroutines run in any order.
func (x *fetch) startAt(at map[string]time.Duration) {
	x.sink.begin = func(ctx context.Context, f fetcher.File) error { return wait(ctx, at[f.Path.String()]) }
}

// wantHere checks that exactly these files were committed, as they are.
func (x *fetch) wantHere(paths ...string) {
	x.t.Helper()
	for _, path := range paths {
		if f := x.byPath[path]; !x.sink.has(f) || !bytes.Equal(x.sink.here[f.Digest], x.source.content[path]) {
			x.t.Errorf("%s is not here, or not as it should be", path)
		}
	}
	if len(x.sink.here) != len(paths) {
		x.t.Errorf("%d files are here, want %d", len(x.sink.here), len(paths))
	}
}

func filled(n int, with byte) []byte { return bytes.Repeat([]byte{with}, n) }

func TestFetchBringsEveryDigestOnceAndProgressSumsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{
			"big": filled(4500, 'b'), "one": filled(1000, 'o'), "small": []byte("s"), "sub/empty": {},
			"resumed": filled(2500, 'r'), "here": filled(3000, 'h'),
		})
		twin := x.byPath["big"]
		twin.Path = fileOf(t, "twin", nil).Path
		x.files = append(x.files, twin)
		x.sink.here[x.byPath["here"].Digest] = x.source.content["here"]
		held := &memIngest{sink: x.sink, file: x.byPath["resumed"], data: filled(2500, 'r'), held: map[int]bool{1: true}}
		x.sink.partial[held.file.Digest] = held

		if err := x.run(t.Context(), fetcher.EngineConfig{Connections: 3}); err != nil {
			t.Fatal(err)
		}
		x.wantHere("big", "one", "small", "sub/empty", "resumed", "here")
		if want := int64(4500 + 1000 + 1 + 1500); x.progress != want {
			t.Errorf("progress sums to %d bytes, want %d", x.progress, want)
		}
		if len(x.sink.begun) != 6 {
			t.Errorf("begun: %v", x.sink.begun)
		}
	})
}

func TestPiecesOfAllFilesShareTheConnectionsLargestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"a": filled(100, 'a'), "z": filled(5000, 'z'), "m": filled(3000, 'm')})
		x.source.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) { return r, wait(ctx, time.Second) }
		if err := x.run(t.Context(), fetcher.EngineConfig{Connections: 3}); err != nil {
			t.Fatal(err)
		}
		if x.source.atMost != 3 || x.took != 3*time.Second {
			t.Errorf("%d requests at once, 9 pieces in %s", x.source.atMost, x.took)
		}
		// Which come in the first second depends on the Begin that was quickest.
		smallest := map[time.Duration]int{}
		for _, a := range x.source.asked() {
			size := len(x.source.content[a.path])
			if before, ok := smallest[a.at-time.Second]; ok && a.at > time.Second && size > before {
				t.Errorf("a piece of %s came after one of a file of %d bytes", a.path, before)
			}
			if before, ok := smallest[a.at]; !ok || size < before {
				smallest[a.at] = size
			}
		}
	})
}

func TestVerifyingOverlapsTheTransferOfOtherFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"first": filled(3000, 'f'), "second": filled(2000, 's')})
		secondCame := make(chan struct{})
		x.sink.verify = func(f fetcher.File) error {
			if f.Path.String() == "first" {
				<-secondCame // a deadlock if nothing moves meanwhile
			}
			return nil
		}
		x.sink.write = func(f fetcher.File, p fetcher.Piece) error {
			if f.Path.String() == "second" && p.Index == 1 {
				close(secondCame)
			}
			return nil
		}
		if err := x.run(t.Context(), fetcher.EngineConfig{Connections: 1}); err != nil {
			t.Fatal(err)
		}
		x.wantHere("first", "second")
	})
}

func TestFilesAreCommittedInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := map[string][]byte{}
		for i := range 100 {
			content[fmt.Sprintf("f%d", i)] = fmt.Appendf(nil, "content %d", i)
		}
		x := newFetch(t, content)
		committing := atomic.Int32{}
		x.sink.commit = func(int) error {
			if committing.Add(1) > 1 {
				t.Error("two commits at once")
			}
			defer committing.Add(-1)
			return wait(t.Context(), time.Second)
		}
		if err := x.run(t.Context(), fetcher.EngineConfig{}); err != nil {
			t.Fatal(err)
		}
		if len(x.sink.here) != 100 || len(x.sink.batches) > 3 {
			t.Errorf("%d files here, in batches of %v", len(x.sink.here), x.sink.batches)
		}
	})
}

func TestOpenFilesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := map[string][]byte{}
		for i := range 500 {
			content[fmt.Sprintf("f%d", i)] = fmt.Appendf(nil, "content %d", i)
		}
		x := newFetch(t, content)
		x.source.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) {
			return r, wait(ctx, time.Millisecond)
		}
		if err := x.run(t.Context(), fetcher.EngineConfig{Ahead: 7}); err != nil {
			t.Fatal(err)
		}
		if len(x.sink.here) != 500 || x.sink.atMost != 7 {
			t.Errorf("%d files are here, %d were open at once", len(x.sink.here), x.sink.atMost)
		}
	})
}

// Two fetches want the same two files and each begins the one that the other
// waits for.
func TestFetchesThatWaitForEachOtherBothEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := map[string][]byte{"a": filled(3000, 'a'), "b": filled(2000, 'b')}
		shared := newSink()
		locks := map[string]chan struct{}{"a": make(chan struct{}, 1), "b": make(chan struct{}, 1)}
		shared.close = func(f fetcher.File) error { <-locks[f.Path.String()]; return nil }
		var wg sync.WaitGroup
		for i, other := range []string{"b", "a"} {
			x := newFetch(t, content)
			x.source.each = func(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) { return r, wait(ctx, time.Minute) }
			sink := &lockingSink{shared, locks, other}
			wg.Go(func() {
				e, err := fetcher.NewEngine(fetcher.EngineConfig{Connections: 1, Stall: time.Hour})
				if err == nil {
					err = e.Fetch(t.Context(), x.job(sink))
				}
				if err != nil {
					t.Errorf("fetch %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if len(shared.here) != 2 {
			t.Errorf("%d files are here", len(shared.here))
		}
	})
}

// lockingSink begins a file only while nobody else has it; late comes second.
type lockingSink struct {
	*memSink
	locks map[string]chan struct{}
	late  string
}

func (s *lockingSink) Begin(ctx context.Context, f fetcher.File) (fetcher.Ingest, error) {
	if f.Path.String() == s.late {
		if err := wait(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	select {
	case s.locks[f.Path.String()] <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	in, err := s.memSink.Begin(ctx, f)
	if in == nil {
		<-s.locks[f.Path.String()]
	}
	return in, err
}

func TestABeginThatWaitsHoldsUpNoOtherFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFetch(t, map[string][]byte{"big": filled(3000, 'b'), "small": filled(10, 's')})
		x.sink.begin = func(ctx context.Context, f fetcher.File) error {
			for f.Path.String() == "big" && !x.sink.has(x.byPath["small"]) {
				if err := wait(ctx, time.Second); err != nil {
					return err
				}
			}
			return nil
		}
		if err := x.run(t.Context(), fetcher.EngineConfig{}); err != nil {
			t.Fatal(err)
		}
		x.wantHere("big", "small")
	})
}
