package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
)

func TestAPinIsKeptUntilItIsRemovedAndBothCanBeAskedForTwice(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Ref: mainRef, Layout: store.HubCache}
	a, b := volume("a"), store.Volume{ID: "a", Target: "/elsewhere"}
	view := mustView(t, s, k, m, a)
	mustView(t, s, k, m, a)
	mustView(t, s, k, m, b)
	first, _ := s.HasPin(a)
	s.Close()

	s = storetest.OpenAt(t, dir)
	if got := s.Pins(); len(got) != 2 || !slices.ContainsFunc(got, func(p store.Pin) bool { return p == first }) {
		t.Errorf("after opening again, pins are %v", got)
	}
	if got, ok, err := s.ViewByID(view.ID); err != nil || !ok || got != view {
		t.Errorf("after opening again, the view is %v, %v, %v; was %v", got, ok, err, view)
	}
	other := k
	other.Layout = store.Snapshot
	if err := s.AssembleView(t.Context(), other, m); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.PinView(other, a); !errors.Is(err, store.ErrPinned) {
		t.Errorf("pinning another view says %v", err)
	}
	for range 2 {
		if err := s.Unpin(a); err != nil {
			t.Error(err)
		}
	}
	if _, ok := s.HasPin(a); ok || !s.Pinned(view.ID) {
		t.Error("one pin's removal is not the other's")
	}
	if err := s.Unpin(b); err != nil || s.Pinned(view.ID) {
		t.Errorf("the view is still pinned (%v)", err)
	}
}

func TestAPinThatCannotBeReadPinsEveryViewUntilItsVolumeReturnsOrLeaves(t *testing.T) {
	for name, heal := range map[string]func(s *store.Store, k store.ViewKey) error{
		"unpublished": func(s *store.Store, _ store.ViewKey) error { return s.Unpin(volume("lost")) },
		"published again": func(s *store.Store, k store.ViewKey) error {
			_, _, err := s.PinView(k, volume("lost"))
			return errors.Join(err, s.Unpin(volume("lost")))
		},
	} {
		dir := t.TempDir()
		s := storetest.OpenAt(t, dir)
		m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
		k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
		view := mustView(t, s, k, m, volume("lost"))
		s.Close()
		path := filepath.Join(dir, "pins", volume("lost").Pin()+".json")
		if err := flip(path, 60); err != nil {
			t.Fatal(err)
		}
		if store.CheckStore(dir) == nil {
			t.Error("CheckStore does not see the pin")
		}
		s = storetest.OpenAt(t, dir)
		if !s.Pinned(view.ID) || s.Stats().UnreadablePins != 1 {
			t.Errorf("%s: the view can be evicted", name)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: the file is gone: %v", name, err)
		}
		if err := heal(s, k); err != nil || s.Pinned(view.ID) {
			t.Errorf("%s: still pinned (%v)", name, err)
		}
	}
}

func TestALeftOverPinIsKeptAndFitsTheViewMadeAgain(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	view := mustView(t, s, k, m, volume("1"))
	s.Close()
	if err := os.RemoveAll(filepath.Join(dir, "views", view.ID)); err != nil {
		t.Fatal(err)
	}
	s = storetest.OpenAt(t, dir)
	if _, ok, err := s.PinView(k, volume("1")); ok || err != nil {
		t.Errorf("PinView of a view that is gone says %v, %v", ok, err)
	}
	if pin, ok := s.HasPin(volume("1")); !ok || pin.View != view.ID {
		t.Error("the pin is lost")
	}
	if again := mustView(t, s, k, m, volume("1")); again != view {
		t.Errorf("the view made again is %v", again)
	}
}

func TestPinViewRefusesAVolumeWithoutAName(t *testing.T) {
	s := storetest.Open(t)
	k := store.ViewKey{Revision: storetest.Manifest(t, repoA, commit1, nil, nil).Revision, Layout: store.Snapshot}
	for _, v := range []store.Volume{{}, {ID: "x"}, {Target: "/x"}, {ID: "a\x00b", Target: "c"}} {
		if _, _, err := s.PinView(k, v); err == nil {
			t.Errorf("%q was accepted", v)
		}
	}
}
