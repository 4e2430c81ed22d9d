package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// chain is an Engine with Sources in order, all of which have the content at first, and
// what is told of its Fetches.
type chain struct {
	*fetch
	engine  *fetcher.Engine
	a, b, c *fakeSource
	sources []fetcher.Source
	passed  []string // "source path reason next", in the order told
	bytes   map[string]int64
}

// newChain makes one of two Sources, "a" and "b"; "c" is for tests that put it in sources.
func newChain(t *testing.T, cfg fetcher.EngineConfig, content map[string][]byte) *chain {
	x := &chain{fetch: newFetch(t, content)}
	for _, s := range []**fakeSource{&x.a, &x.b, &x.c} {
		all := map[string][]byte{}
		for path, b := range content {
			all[path] = b
		}
		*s = newSource(all)
	}
	x.a.name, x.b.name, x.c.name = "a", "b", "c"
	x.sources = []fetcher.Source{x.a, x.b}
	var err error
	if x.engine, err = fetcher.NewEngine(cfg); err != nil {
		t.Fatal(err)
	}
	return x
}

// run is one Fetch of all files, by the same Engine each time.
func (x *chain) run(ctx context.Context) error {
	x.t.Helper()
	x.passed, x.bytes, x.failing, x.progress = nil, map[string]int64{}, nil, 0
	began := time.Now()
	job := x.job(x.sink)
	job.Sources = x.sources
	job.Progress = func(source string, n int64) { x.progress += n; x.bytes[source] += n }
	job.Failing = func(err error) { x.failing = append(x.failing, failure{err, time.Since(began)}) }
	job.Passed = func(p fetcher.Passed) {
		x.passed = append(x.passed, fmt.Sprintf("%s %s %s %s", p.Source, p.File.Path, p.Why, p.Next))
		if p.Err == nil {
			x.t.Errorf("%s was passed over without an error", p.Source)
		}
	}
	err := x.engine.Fetch(ctx, job)
	x.took = time.Since(began)
	for _, s := range []*fakeSource{x.a, x.b, x.c} {
		opened := 0
		for _, n := range s.opened {
			opened += n
		}
		if s.busy != 0 || s.closed != opened {
			x.t.Errorf("%s: %d requests are open, %d of %d objects were closed", s.name, s.busy, s.closed, opened)
		}
	}
	if x.sink.open != 0 {
		x.t.Errorf("%d ingests are open", x.sink.open)
	}
	if err == nil && len(x.failing) != 0 || err != nil && (len(x.failing) != 1 || x.failing[0].err != err) {
		x.t.Errorf("Failing was told %v, Fetch returned %v", x.failing, err)
	}
	return err
}

// again forgets what was asked and what is here.
func (x *chain) again() {
	x.sink.here = map[fetcher.Digest][]byte{}
	for _, s := range []*fakeSource{x.a, x.b, x.c} {
		s.asks = nil
	}
}

// wantBytes checks what each Source gave, in what was kept.
func (x *chain) wantBytes(want map[string]int64) {
	x.t.Helper()
	for _, s := range []string{"", "a", "b", "c"} {
		if x.bytes[s] != want[s] {
			x.t.Errorf("%d bytes are from %q, want %d", x.bytes[s], s, want[s])
		}
	}
}

func (x *chain) wantPassed(want ...string) {
	x.t.Helper()
	if fmt.Sprintf("%q", x.passed) != fmt.Sprintf("%q", want) {
		x.t.Errorf("passed over: %q, want %q", x.passed, want)
	}
}

// offsets says from where a Source was asked to read.
func (s *fakeSource) offsets() (list []int64) {
	for _, a := range s.asked() {
		list = append(list, a.off)
	}
	return list
}

var (
	errReset = &fetcher.UnreachableError{Err: errors.New("connection reset")}
	errDown  = &fetcher.UnreachableError{Err: errors.New("connection refused")}
)

// down refuses every request.
func down(context.Context, ask, io.Reader) (io.Reader, error) { return nil, errDown }

// wrong gives other bytes of the same number.
func wrong(_ context.Context, a ask, _ io.Reader) (io.Reader, error) {
	return bytes.NewReader(filled(int(a.n), 'X')), nil
}

// at applies do to requests from that offset on, of which the others are answered truly.
func at(off int64, do func(context.Context, ask, io.Reader) (io.Reader, error)) func(context.Context, ask, io.Reader) (io.Reader, error) {
	return func(ctx context.Context, a ask, r io.Reader) (io.Reader, error) {
		if a.off < off {
			return r, nil
		}
		return do(ctx, a, r)
	}
}

// hang answers nothing until the request ends.
func hang(ctx context.Context, _ ask, _ io.Reader) (io.Reader, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// drips gives one byte, and then nothing until the request ends.
func drips(ctx context.Context, _ ask, r io.Reader) (io.Reader, error) {
	given := false
	return readFunc(func(b []byte) (int, error) {
		if given {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		given = true
		return r.Read(b[:1])
	}), nil
}
