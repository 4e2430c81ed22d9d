package store_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// slow is a disk on which the next View takes until it is let go on. It counts links.
type slow struct {
	mu      sync.Mutex
	at      durabletest.Op // what waits, in a .partial or, for Sync, in what it was born into
	fail    bool
	started chan struct{}
	goOn    chan struct{}
	links   int
}

func (d *slow) fault(op durabletest.Op, path string) (bool, error) {
	d.mu.Lock()
	if op == durabletest.Link {
		d.links++
	}
	if op != d.at || !strings.Contains(path, "/views/") {
		d.mu.Unlock()
		return true, nil
	}
	d.at = ""
	fail := d.fail
	d.mu.Unlock()
	close(d.started)
	<-d.goOn
	if fail {
		return false, errInjected
	}
	return true, nil
}

func (d *slow) arm(at durabletest.Op, fail bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.fail, d.links = at, fail, 0
	d.started, d.goOn = make(chan struct{}), make(chan struct{})
}

func openSlow(t *testing.T) (*store.Store, *slow, *fetcher.Manifest) {
	t.Helper()
	d := &slow{}
	s, err := store.OpenWith(store.Config{Dir: quickDir(t)}, durabletest.Ops{Fault: d.fault})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		mustCheck(t, s.Dir())
	})
	return s, d, storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
}

func TestNoPinWaitsForTheAssemblyOfAnotherView(t *testing.T) {
	for _, at := range []durabletest.Op{durabletest.Link, durabletest.Sync, durabletest.Rename} {
		s, d, m := openSlow(t)
		k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
		other := k
		other.Layout = store.HubCache
		view := mustView(t, s, k, m, volume("1"))
		d.arm(at, false)
		done := make(chan error)
		go func() { done <- s.AssembleView(t.Context(), other, m) }()
		<-d.started
		// Would wait for ever.
		if _, ok, err := s.PinView(t.Context(), k, volume("2")); err != nil || !ok {
			t.Errorf("PinView says %v, %v", ok, err)
		}
		if got, ok, err := s.PinnedView(volume("1")); err != nil || !ok || got != view {
			t.Errorf("PinnedView says %v, %v, %v", got, ok, err)
		}
		if err := s.Unpin(t.Context(), volume("2")); err != nil {
			t.Error(err)
		}
		if _, ok, err := s.PinView(t.Context(), other, volume("3")); err != nil || ok {
			t.Errorf("PinView of the view that is being made says %v, %v", ok, err)
		}
		close(d.goOn)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, ok, err := s.PinView(t.Context(), other, volume("3")); err != nil || !ok {
			t.Errorf("PinView of the view made says %v, %v", ok, err)
		}
	}
}

func TestAViewIsAssembledOnceByManyAndAgainIfTheFirstFails(t *testing.T) {
	for _, fail := range []bool{false, true} {
		s, d, m := openSlow(t)
		k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
		d.arm(durabletest.Rename, fail)
		first := make(chan error)
		go func() { first <- s.AssembleView(t.Context(), k, m) }()
		<-d.started
		gaveUp, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.AssembleView(gaveUp, k, m); !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up is told %v", err)
		}
		others := make(chan error)
		for range 4 {
			go func() { others <- s.AssembleView(t.Context(), k, m) }()
		}
		close(d.goOn)
		if err := <-first; fail != errors.Is(err, errInjected) || !fail && err != nil {
			t.Errorf("the first is told %v", err)
		}
		for range 4 {
			if err := <-others; err != nil {
				t.Errorf("another is told %v", err)
			}
		}
		if want := map[bool]int{false: len(m.Files), true: 2 * len(m.Files)}[fail]; d.links != want {
			t.Errorf("%d links were made, want %d", d.links, want)
		}
		if _, ok, err := s.PinView(t.Context(), k, volume("1")); err != nil || !ok {
			t.Errorf("PinView says %v, %v", ok, err)
		}
	}
}
