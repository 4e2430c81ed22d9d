package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// A listing takes memory in proportion to its files: less than 2 KiB each, that of the
// Hub in this process included. The longest that may come (64 MiB) has some 700,000.
func TestHostileListingTakesMemoryInProportion(t *testing.T) {
	// What is measured is what it holds. On a busy machine a lazy collector leaves as much
	// again lying about.
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	files := 20_000
	if *long {
		files = 700_000
	}
	repo := func(e *evil) {
		for i := range files {
			e.list(fmt.Sprintf("%06d", i), 1, gitSum(fmt.Append(nil, i)))
		}
		e.claim("000000", gitSum([]byte("0"))) // and nothing comes
		e.on[onGet] = http.NotFound
	}
	hostileRow{
		repo: repo, waits: true, says: []string{"0% of"}, within: 5 * time.Minute,
		memory: int64(files) * 2 << 10, room: 8<<20 + int64(files)*200, // the Manifest is kept
	}.run(t)
}

func TestHostileTreeOfTooManyDirectoriesIsRefused(t *testing.T) {
	hostileRow{refused: fetcher.ErrMalformed, says: []string{"directories", "choose another revision"}, within: 20 * time.Second, memory: 64 << 20,
		repo: func(e *evil) {
			for i := range 2000 {
				e.add(fmt.Sprintf("%04d/", i)+strings.Repeat("d/", 62)+"f", []byte("x"))
			}
		}}.run(t)
}

// A tree of as many directories as there may be is given within one of kubelet's calls,
// and a shorter call ends when it should.
func TestHostileTreeOfManyDirectoriesHoldsNoCallBeyondItsEnd(t *testing.T) {
	if !*long {
		t.Skip("100,000 directories take a minute to make, to check and to remove; make test-long runs it")
	}
	w := newWorld(t)
	w.dir = fence(t)
	w.start()
	e, _ := newEvil(evilRepo)
	for i := range fetcher.MaxDirectories {
		e.add(fmt.Sprintf("%06d/f", i), []byte("x"))
	}
	w.hub.Intercept(e.answer)
	var err error
	for _, call := range []time.Duration{4 * time.Second, 118 * time.Second} {
		took, grew := measure(func() { err = w.try(hostileRequest(nil), call) })
		bounds(t, took, call+10*time.Second, grew, 512<<20)
	}
	must(t, err)
}

// A Filter is a tenant's: matching it against a long listing of long names, which would
// take a minute here, holds no call, and ends with whoever waits for it.
func TestHostilePatternsEndWithTheirCall(t *testing.T) {
	w := newWorld(t)
	w.dir = fence(t)
	w.start()
	e, asked := newEvil(evilRepo)
	part := strings.Repeat("a", 230)
	for i := range 5000 {
		e.add(fmt.Sprintf("%s%06d", strings.Repeat(part+"/", 12), i), nil)
	}
	w.hub.Intercept(e.answer)
	w.hub.AddRepo(goodRepo, small(1))
	var patterns []string
	for i := range 64 {
		patterns = append(patterns, strings.Repeat("a*", 30)+fmt.Sprintf("%02dc", i))
	}
	filter, err := fetcher.NewFilter(patterns, patterns)
	must(t, err)
	other := make(chan error, 1)
	go func() {
		<-asked
		other <- w.try(request("good", goodRepo), 10*time.Second)
	}()
	const call = 3 * time.Second
	took, grew := measure(func() {
		err = w.try(hostileRequest(func(r *agent.Request) { r.Filter = filter }), call)
	})
	bounds(t, took, call+2*time.Second, grew, 256<<20)
	var waiting *agent.WaitingError
	if !errors.As(err, &waiting) {
		t.Errorf("Acquire: %v; want it to wait", err)
	}
	if err := <-other; err != nil {
		t.Errorf("another repository of the same Hub: %v", err)
	}
	must(t, w.Release(t.Context(), hostileRequest(nil).Volume))
	took, _ = measure(w.halt) // waits for all that is under way
	if took > 2*time.Second {
		t.Errorf("the agent worked on for %s for nobody", took)
	}
}

func (w *world) try(req agent.Request, d time.Duration) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	_, err := w.Acquire(ctx, req)
	return err
}
