package agent_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestAcquireBringsASnapshotOnceAndGivesItToTheNextAtOnce(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	commit := w.hub.AddRepo("org/name", files)

	first := w.must(request("one", "org/name"))
	w.sees(first, files)
	if got := first.Revision.Commit.String(); got != commit {
		t.Errorf("commit %s, want %s", got, commit)
	}
	if first.Fetched != size(files) || w.hub.BytesServed() != size(files) {
		t.Errorf("fetched %d bytes, the Hub served %d; want each distinct byte once: %d", first.Fetched, w.hub.BytesServed(), size(files))
	}

	w.hub.ResetRequests()
	second := w.must(request("two", "org/name"))
	if second.View != first.View || second.Fetched != 0 {
		t.Errorf("second volume got view %s with %d bytes fetched; want %s and none", second.View, second.Fetched, first.View)
	}
	if asked := w.hub.Requests(); len(asked) != 0 {
		t.Errorf("a Ref resolved a moment ago was asked again: %+v", asked)
	}
	if pins := w.pins(); len(pins) != 2 {
		t.Errorf("pins %v, want both volumes", pins)
	}
}

func TestAcquireFollowsIncludeAndExclude(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	w.hub.AddRepo("org/name", files)
	filter, err := fetcher.NewFilter([]string{"*.json", "onnx/"}, []string{"copy*"})
	must(t, err)
	m := w.must(request("one", "org/name", func(r *agent.Request) { r.Filter = filter }))
	w.sees(m, map[string][]byte{"config.json": files["config.json"], "onnx/decoder/model.bin": files["onnx/decoder/model.bin"]})

	nothing, err := fetcher.NewFilter([]string{"*.gguf"}, nil)
	must(t, err)
	refused := w.refused(request("two", "org/name", func(r *agent.Request) { r.Filter = nothing }), agent.ErrNothingSelected)
	contains(t, refused.Error(), "org/name", "include")
}

func TestAcquireShowsTheHubCacheLayout(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	commit := w.hub.AddRepo("org/name", files)
	m := w.must(request("one", "org/name", func(r *agent.Request) { r.Layout = store.HubCache }))
	m.View = filepath.Join(m.View, "models--org--name", "snapshots", commit)
	w.sees(m, files)
}

func TestTenVolumesShareOneFlight(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	w.hub.AddRepo("org/name", files)
	var all sync.WaitGroup
	for _, v := range []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"} {
		all.Go(func() {
			m, err := w.Acquire(t.Context(), request(v, "org/name"))
			if err != nil {
				t.Errorf("volume %s: %v", v, err)
				return
			}
			w.sees(m, files)
		})
	}
	all.Wait()
	if got := w.hub.BytesServed(); got != size(files) {
		t.Errorf("the Hub served %d bytes, want %d: each byte once", got, size(files))
	}
}

func TestFlightsOfTwoFiltersFetchACommonFileOnce(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	w.hub.AddRepo("org/name", files)
	release := w.hub.Hold("org/name", "model-00001-of-00002.safetensors")
	filter, err := fetcher.NewFilter([]string{"*.safetensors"}, nil)
	must(t, err)
	whole, part := request("whole", "org/name"), request("part", "org/name", func(r *agent.Request) { r.Filter = filter })
	w.waits(whole, 200*time.Millisecond)
	w.waits(part, 200*time.Millisecond)
	release()
	w.must(part)
	w.sees(w.must(whole), files)
	if got := w.hub.BytesServed(); got != size(files) {
		t.Errorf("the Hub served %d bytes, want %d", got, size(files))
	}
}

func TestDownloadOutlivesTheCallThatAskedForIt(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	w.hub.AddRepo("org/name", files)
	release := w.hub.Hold("org/name", "model-00002-of-00002.safetensors")
	waiting := w.waits(request("one", "org/name"), 500*time.Millisecond)
	contains(t, waiting.Progress, "org/name@", "% of 17 MB", "hub")
	if waiting.Total != size(files) || waiting.Done >= waiting.Total {
		t.Errorf("progress %d of %d bytes, want less than all of %d", waiting.Done, waiting.Total, size(files))
	}
	release()
	w.sees(w.must(request("one", "org/name")), files)
	if got := w.hub.BytesServed(); got != size(files) {
		t.Errorf("the Hub served %d bytes, want %d: the second call must find the first one's work", got, size(files))
	}
}

func TestReleaseEndsTheWaitAndTheLastOneStopsTheFlight(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddRepo("org/name", model(1))
	defer w.hub.Hold("org/name", "config.json")()
	one, two := request("one", "org/name"), request("two", "org/name")
	w.waits(two, 300*time.Millisecond)
	ended := make(chan error, 1)
	go func() {
		_, err := w.Acquire(context.Background(), one)
		ended <- err
	}()
	for w.waiters() != 2 {
		w.waits(two, 20*time.Millisecond)
	}
	must(t, w.Release(t.Context(), one.Volume))
	var waiting *agent.WaitingError
	if err := <-ended; !errors.As(err, &waiting) {
		t.Errorf("the released volume's call ended with %v, want a WaitingError", err)
	}
	if got := w.waiters(); got != 1 {
		t.Errorf("%v volumes wait after one was released, want the other one", got)
	}
	must(t, w.Release(t.Context(), two.Volume))
	if got := w.flights(); got != 0 {
		t.Errorf("%v flights after the last waiter left, want none", got)
	}
}

func TestStoppingEndsEveryWaitAtOnce(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddRepo("org/name", model(1))
	defer w.hub.Hold("org/name", "config.json")()
	ended := make(chan error, 1)
	go func() {
		_, err := w.Acquire(context.Background(), request("one", "org/name"))
		ended <- err
	}()
	for w.waiters() != 1 {
		w.waits(request("two", "org/name"), 20*time.Millisecond)
		must(t, w.Release(t.Context(), request("two", "org/name").Volume))
	}
	w.halt()
	var waiting *agent.WaitingError
	if err := <-ended; !errors.As(err, &waiting) {
		t.Errorf("the call ended with %v, want a WaitingError", err)
	} else {
		contains(t, waiting.Progress, "stopping")
	}
}

func TestRestartKeepsViewsPinsAndFinishedPieces(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	w.hub.AddRepo("org/name", files)
	big := "model-00001-of-00002.safetensors"
	release := w.hub.Hold("org/name", "model-00002-of-00002.safetensors")
	for done := int64(0); done < size(files)-70_000; {
		done = w.waits(request("one", "org/name"), 50*time.Millisecond).Done
	}
	w.restart()
	release()
	w.sees(w.must(request("one", "org/name")), files)
	if got := w.hub.BytesServed(); got > size(files)+70_000 {
		t.Errorf("the Hub served %d bytes of %d: %s was fetched again", got, size(files), big)
	}

	w.restart()
	if pins := w.pins(); len(pins) != 1 || pins[0].ID != "one" {
		t.Errorf("pins after a restart: %v", pins)
	}
	w.hub.Down(true)
	w.sees(w.must(request("one", "org/name")), files)
}

func TestAPodKeepsTheRevisionItStartedWith(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.AddRepo("org/name", model(1))
	before := w.must(request("one", "org/name"))
	next := model(2)
	w.hub.AddRepo("org/name", next)
	if again := w.must(request("one", "org/name")); again.View != before.View {
		t.Errorf("the volume's view changed under its pod from %s to %s", before.View, again.View)
	}
	w.sees(w.must(request("two", "org/name")), next)
	must(t, w.Release(t.Context(), store.Volume{ID: "one", Target: "/pods/one/mount"}))
	w.sees(w.must(request("one", "org/name")), next)
}

func TestMismatchNamesFileAndSourceMountsNothingAndHeals(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	w.hub.AddRepo("org/name", files)
	bad := "onnx/decoder/model.bin"
	w.hub.Corrupt("org/name", bad, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := w.Acquire(ctx, request("one", "org/name"))
	var mismatch *fetcher.MismatchError
	if !errors.As(err, &mismatch) {
		t.Fatalf("Acquire: %v, want a MismatchError", err)
	}
	contains(t, err.Error(), "org/name", bad, "hub", "next try")
	if w.store.HasBlob(mismatch.File.Digest) || len(w.pins()) != 0 {
		t.Error("the wrong bytes were kept, or something was pinned")
	}
	w.sees(w.must(request("one", "org/name")), files)
	if got := w.hub.BytesServed(); got != size(files)+int64(len(files[bad])) {
		t.Errorf("the Hub served %d bytes, want %d and the bad file's %d again", got, size(files), len(files[bad]))
	}
}

func TestNobodyJoinsAFlightThatIsEnding(t *testing.T) {
	w := newWorld(t).start()
	files := small(1)
	w.hub.AddRepo("org/name", files)
	release := w.hub.Hold("org/name", "config.json") // so that the flight drains for a while
	w.hub.Corrupt("org/name", "onnx/decoder/model.bin", 1)
	stop, first := w.acquireAside(request("first", "org/name"))
	defer stop()
	w.until("the mismatch has happened", func() bool { // the bytes were asked for, and nobody may join any more
		return slices.ContainsFunc(w.hub.Requests(), func(r hubtest.Request) bool { return r.Kind == "cdn" }) && w.flights() == 0
	})
	later, got := w.acquireAside(request("later", "org/name"))
	defer later()
	w.until("it has a flight", func() bool { return w.flights() == 1 })
	release()
	var mismatch *fetcher.MismatchError
	if err := <-first; !errors.As(err, &mismatch) {
		t.Errorf("the first one's call: %v, want the mismatch", err)
	}
	if err := <-got; err != nil {
		t.Errorf("one who came after the mismatch: %v; want a flight of its own", err)
	}
}

func TestAVolumeWaitsForOneRevisionAtATime(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.AddRepo("org/name", small(1))
	defer w.hub.Hold("org/name", "config.json")()
	w.waits(request("one", "org/name"), 200*time.Millisecond)
	w.hub.AddRepo("org/name", small(2))
	w.waits(request("one", "org/name"), 200*time.Millisecond)
	if got := w.flights(); got != 1 {
		t.Errorf("%v flights for one volume, want that of the Ref's new commit alone", got)
	}
}

func TestStoppingIsNeverARefusal(t *testing.T) {
	for range 10 {
		w := newWorld(t).start()
		w.hub.AddRepo("org/name", small(1))
		w.hub.Hold("org/name", "config.json")
		const volumes = 20
		ended := make(chan error, volumes)
		for i := range volumes {
			go func() {
				_, err := w.Acquire(context.Background(), request(string(rune('a'+i)), "org/name"))
				ended <- err
			}()
		}
		w.until("all wait", func() bool { return w.waiters() == volumes })
		w.halt()
		for range volumes {
			var waiting *agent.WaitingError
			if err := <-ended; !errors.As(err, &waiting) {
				t.Fatalf("a call ended with %v, want a WaitingError", err)
			}
		}
	}
}
