package store_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	first, _ := pinOf(s, a)
	s.Close()

	s = storetest.OpenAt(t, dir)
	if got := s.Pins(); len(got) != 2 || !slices.ContainsFunc(got, func(p store.Pin) bool { return p == first }) {
		t.Errorf("after opening again, pins are %v", got)
	}
	if got, ok, err := s.PinnedView(a); err != nil || !ok || got != view {
		t.Errorf("after opening again, the view is %v, %v, %v; was %v", got, ok, err, view)
	}
	other := k
	other.Layout = store.Snapshot
	if err := s.AssembleView(t.Context(), other, m); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.PinView(t.Context(), other, a); !errors.Is(err, store.ErrPinned) {
		t.Errorf("pinning another view says %v", err)
	}
	for range 2 {
		if err := s.Unpin(t.Context(), a); err != nil {
			t.Error(err)
		}
	}
	if _, ok := pinOf(s, a); ok || !s.Pinned(view.ID) {
		t.Error("one pin's removal is not the other's")
	}
	if err := s.Unpin(t.Context(), b); err != nil || s.Pinned(view.ID) {
		t.Errorf("the view is still pinned (%v)", err)
	}
}

func TestAPinThatCannotBeReadPinsEveryViewUntilItsVolumeReturnsOrLeaves(t *testing.T) {
	for name, heal := range map[string]func(s *store.Store, k store.ViewKey) error{
		"unpublished": func(s *store.Store, _ store.ViewKey) error { return s.Unpin(t.Context(), volume("lost")) },
		"published again": func(s *store.Store, k store.ViewKey) error {
			_, _, err := s.PinView(t.Context(), k, volume("lost"))
			return errors.Join(err, s.Unpin(t.Context(), volume("lost")))
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
	if _, ok, err := s.PinView(t.Context(), k, volume("1")); ok || err != nil {
		t.Errorf("PinView of a view that is gone says %v, %v", ok, err)
	}
	if pin, ok := pinOf(s, volume("1")); !ok || pin.View != view.ID {
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
		if _, _, err := s.PinView(t.Context(), k, v); err == nil {
			t.Errorf("%q was accepted", v)
		}
	}
}

func TestWhoeverGaveUpUnpinsNothing(t *testing.T) {
	s := storetest.Open(t)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	view := mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m, volume("1"))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Unpin(gone, volume("1")); !errors.Is(err, context.Canceled) {
		t.Errorf("Unpin says %v", err)
	}
	if got, ok, err := s.PinnedView(volume("1")); err != nil || !ok || got != view {
		t.Errorf("the view pinned is %v, %v, %v", got, ok, err)
	}
}

func TestAPinWhoseViewIsGoneIsRemovedWhenItsVolumeIsAskedFor(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	view := mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m, volume("1"))
	s.Close()
	if err := os.RemoveAll(filepath.Join(dir, "views", view.ID)); err != nil {
		t.Fatal(err)
	}
	s = storetest.OpenAt(t, dir)
	if _, ok := pinOf(s, volume("1")); !ok {
		t.Error("the pin is lost before anyone asked for it")
	}
	if got, ok, err := s.PinnedView(volume("1")); ok || err != nil {
		t.Errorf("PinnedView says %v, %v, %v", got, ok, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "pins", volume("1").Pin()+".json")); !errors.Is(err, fs.ErrNotExist) || len(s.Pins()) > 0 {
		t.Errorf("the pin is still there (%v)", err)
	}
	if _, ok, err := s.PinnedView(volume("2")); ok || err != nil {
		t.Errorf("PinnedView of a volume that has none says %v, %v", ok, err)
	}
}

func TestAPinThatCannotBeReadIsListedAndReleasedByItsName(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	for _, id := range []string{"lost", "back", "whole"} {
		mustView(t, s, k, m, volume(id))
	}
	s.Close()
	var want []string
	for _, id := range []string{"lost", "back"} {
		want = append(want, volume(id).Pin())
		if err := flip(filepath.Join(dir, "pins", volume(id).Pin()+".json"), 60); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	s = storetest.OpenAt(t, dir)
	if got := s.UnreadablePins(); !slices.Equal(got, want) {
		t.Errorf("unreadable are %v, want %v", got, want)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.UnpinName(gone, want[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("UnpinName says %v to who gave up", err)
	}
	// One that its Volume got back in the meantime is not what was asked about.
	mustView(t, s, k, m, volume("back"))
	for _, id := range []string{"lost", "back", "whole", "never"} {
		if err := s.UnpinName(t.Context(), volume(id).Pin()); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if got := s.UnreadablePins(); len(got) > 0 || len(s.Pins()) != 2 {
		t.Errorf("unreadable are %v, pins %v", got, s.Pins())
	}
	for _, name := range []string{"", "../version", want[0][1:], strings.ToUpper(want[0])} {
		if err := s.UnpinName(t.Context(), name); err == nil {
			t.Errorf("UnpinName accepts %q", name)
		}
	}
}

func TestACallThatHasEndedPinsNothing(t *testing.T) {
	s := storetest.Open(t)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	if err := s.AssembleView(t.Context(), k, m); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok, err := s.PinView(ctx, k, volume("1")); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("PinView says %v, %v", ok, err)
	}
	if len(s.Pins()) != 0 {
		t.Error("it was pinned")
	}
}
