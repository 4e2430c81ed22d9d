package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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

// Whoever waits for a View waits no longer than he said, whatever the disk does; what was
// begun for him ends without him, and is gone before anybody begins again.
func TestAssembleViewEndsWithItsContextWhileTheDiskDoesNot(t *testing.T) {
	wide := map[string][]byte{}
	for i := range 2100 {
		wide[fmt.Sprintf("%d/f", i)] = nil
	}
	for _, at := range []durabletest.Op{durabletest.Link, durabletest.Sync, durabletest.SyncFS} {
		s, d, m := openSlow(t)
		if at == durabletest.SyncFS {
			m = storetest.Fill(t, s, repoA, commit2, wide, nil)
		}
		k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
		d.arm(at, false)
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() { first <- s.AssembleView(ctx, k, m) }()
		<-d.started
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) { // or never
			t.Errorf("%s: who gave up is told %v", at, err)
		}
		second := make(chan error, 1)
		go func() { second <- s.AssembleView(t.Context(), k, m) }()
		if _, ok, err := s.PinView(t.Context(), k, volume("1")); ok || err != nil {
			t.Errorf("%s: PinView says %v, %v", at, ok, err)
		}
		close(d.goOn)
		if err := <-second; err != nil {
			t.Errorf("%s: who comes next is told %v", at, err)
		}
		if d.links > 2*len(m.Files) {
			t.Errorf("%s: %d links were made of %d files", at, d.links, len(m.Files))
		}
		s.Close()
		mustCheck(t, s.Dir())
	}
}

// Close waits for what nobody waits for any more, and nothing of it is left.
func TestCloseWaitsForAnAssemblyThatWasGivenUp(t *testing.T) {
	s, d, m := openSlow(t)
	d.arm(durabletest.Link, false)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { first <- s.AssembleView(ctx, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m) }()
	<-d.started
	cancel()
	<-first
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	select {
	case <-closed:
		close(d.goOn)
		t.Fatal("Close did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	close(d.goOn)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(s.Dir() + "/views/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A View of very many directories has its name only after the one sync of them all, and
// none when that fails.
func TestAGreatViewHasItsNameAfterItsFileSystemIsSynced(t *testing.T) {
	files := map[string][]byte{}
	for i := range 2100 {
		files[fmt.Sprintf("%d/f", i)] = nil
	}
	var mu sync.Mutex
	var did []string
	var fail error
	apply := true
	s, err := store.OpenWith(store.Config{Dir: quickDir(t)}, durabletest.Ops{
		Fault: func(op durabletest.Op, _ string) (bool, error) {
			if op == durabletest.SyncFS {
				return apply, fail
			}
			return true, nil
		},
		After: func(op durabletest.Op, path string) {
			mu.Lock()
			defer mu.Unlock()
			if len(did) == 0 || did[len(did)-1] != string(op) {
				did = append(did, string(op))
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := storetest.Fill(t, s, repoA, commit1, files, nil)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	for _, apply = range []bool{false, true} {
		fail = errInjected
		if err := s.AssembleView(t.Context(), k, m); !errors.Is(err, errInjected) {
			t.Errorf("applied %v: AssembleView says %v", apply, err)
		}
		if left, _ := filepath.Glob(s.Dir() + "/views/*"); len(left) > 0 {
			t.Errorf("applied %v: left behind: %v", apply, left)
		}
	}
	fail, did = nil, nil
	if err := s.AssembleView(t.Context(), k, m); err != nil {
		t.Fatal(err)
	}
	// RemoveAll of what is not there; links, all of it; view.json; the View.
	if got, want := strings.Join(did, " "), "sync link syncfs sync rename sync rename sync"; got != want {
		t.Errorf("did  %s\nwant %s", got, want)
	}
	mustCheck(t, s.Dir())
}
