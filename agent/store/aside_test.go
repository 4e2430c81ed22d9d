package store_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
	"github.com/ballast-csi/ballast/agent/store/storetest"
)

// spoiled are Views that were whole once.
var spoiled = map[string]func(view string) error{
	"no record":             func(view string) error { return os.Remove(view + "/view.json") },
	"record with a bit off": func(view string) error { return flip(view+"/view.json", 90) },
	"record a directory": func(view string) error {
		return errors.Join(os.Remove(view+"/view.json"), os.Mkdir(view+"/view.json", 0o700))
	},
	"record a loop": func(view string) error {
		return errors.Join(os.Remove(view+"/view.json"), os.Symlink("view.json", view+"/view.json"))
	},
	"no root":                  func(view string) error { return os.RemoveAll(view + "/root") },
	"root of another":          func(view string) error { return errors.Join(os.RemoveAll(view+"/root"), os.Symlink(".", view+"/root")) },
	"a directory and no more":  func(view string) error { return errors.Join(os.RemoveAll(view), os.Mkdir(view, 0o755)) },
	"another's under its name": func(view string) error { return errors.Join(os.RemoveAll(view), os.Rename(otherView(view), view)) },
	"no directory":             func(view string) error { return errors.Join(os.RemoveAll(view), os.WriteFile(view, nil, 0o600)) },
}

func otherView(view string) string {
	all, _ := filepath.Glob(filepath.Dir(view) + "/*")
	for _, other := range all {
		if other != view {
			return other
		}
	}
	return ""
}

func TestADamagedViewIsOfferedToNobodyAndMadeAgain(t *testing.T) {
	for name, spoil := range spoiled {
		dir := quickDir(t)
		s := storetest.OpenAt(t, dir)
		m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
		k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
		view := mustView(t, s, k, m, volume("1"))
		mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.HubCache}, m, volume("2"))
		whole := tree(t, filepath.Join(dir, view.Path))
		if err := errors.Join(s.Unpin(t.Context(), volume("1")), s.Unpin(t.Context(), volume("2"))); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if err := spoil(filepath.Join(dir, "views", view.ID)); err != nil {
			t.Fatal(err)
		}
		s = storetest.OpenAt(t, dir)
		if _, ok, err := s.PinView(t.Context(), k, volume("1")); ok || err != nil {
			t.Errorf("%s: PinView says %v, %v", name, ok, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "views", view.ID+"*")); len(left) > 0 {
			t.Errorf("%s: left are %v", name, left)
		}
		if again := mustView(t, s, k, m, volume("1")); again != view || !maps.Equal(tree(t, filepath.Join(dir, again.Path)), whole) {
			t.Errorf("%s: the view made again is %v", name, again)
		}
	}
}

func TestADamagedViewThatIsPinnedIsKeptBesideTheOneMadeAgain(t *testing.T) {
	dir := quickDir(t)
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	view := mustView(t, s, k, m, volume("mounted"))
	path := filepath.Join(dir, "views", view.ID)
	mounted, err := os.Open(filepath.Join(dir, view.Path)) // as a mount has it
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	asides := func() []string {
		list, _ := filepath.Glob(path + "-suspect*")
		return list
	}
	for n := 1; n <= 2; n++ {
		s.Close()
		if err := os.Remove(path + "/view.json"); err != nil {
			t.Fatal(err)
		}
		s = storetest.OpenAt(t, dir)
		mustCheck(t, dir)
		if _, ok, err := s.PinView(t.Context(), k, volume("new")); ok || err != nil {
			t.Errorf("PinView says %v, %v", ok, err)
		}
		if again := mustView(t, s, k, m, volume("new")); again != view {
			t.Errorf("the view made again is %v", again)
		}
		if got := asides(); len(got) != n || len(tree(t, got[0]+"/root")) == 0 {
			t.Errorf("kept are %v", got)
		}
	}
	if names, err := mounted.Readdirnames(0); err != nil || len(names) != 4 {
		t.Errorf("what is mounted shows %v (%v)", names, err)
	}
	s.Close()
	s = storetest.OpenAt(t, dir)
	if len(asides()) != 2 {
		t.Error("an Open removed what may be mounted")
	}
	if err := errors.Join(s.Unpin(t.Context(), volume("mounted")), s.Unpin(t.Context(), volume("new"))); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = storetest.OpenAt(t, dir)
	if got := asides(); len(got) > 0 {
		t.Errorf("nothing is pinned and kept are %v", got)
	}
	if _, ok, err := s.PinView(t.Context(), k, volume("new")); !ok || err != nil {
		t.Errorf("PinView of the whole one says %v, %v", ok, err)
	}
}

func TestAVolumeWhosePinnedViewWasDamagedStartsAnew(t *testing.T) {
	dir := quickDir(t)
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	view := mustView(t, s, k, m, volume("1"))
	s.Close()
	if err := os.Remove(filepath.Join(dir, "views", view.ID, "view.json")); err != nil {
		t.Fatal(err)
	}
	s = storetest.OpenAt(t, dir)
	if _, ok, err := s.PinnedView(volume("1")); ok || err != nil {
		t.Errorf("PinnedView says %v, %v", ok, err)
	}
	if _, ok := pinOf(s, volume("1")); ok {
		t.Error("the pin stays")
	}
	mustView(t, s, k, m, volume("1"))
}

// A View gets its name, that may not be durable, and removing it goes wrong half way:
// what is left never has a View's name.
func TestAViewThatIsTakenBackLosesItsNameFirst(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := smallDisk(t)
	var stuck string
	s, err := store.OpenWith(store.Config{Dir: dir}, durabletest.Ops{Fault: func(op durabletest.Op, path string) (bool, error) {
		born, _ := filepath.Glob(dir + "/views/*/root/README.md")
		if op != durabletest.Sync || path != dir+"/views" || stuck != "" || len(born) != 1 || strings.Contains(born[0], ".partial") {
			return true, nil
		}
		stuck = born[0]
		if err := unix.Mount(stuck, stuck, "", unix.MS_BIND, ""); err != nil { // cannot be removed
			return true, err
		}
		return true, errInjected
	}})
	if err != nil {
		t.Fatal(err)
	}
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	if err := s.AssembleView(t.Context(), k, m); !errors.Is(err, errInjected) || errors.Is(err, store.ErrUnknownState) {
		t.Errorf("AssembleView says %v", err)
	}
	final := filepath.Dir(filepath.Dir(stuck))
	if _, err := os.Lstat(final); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is left of the view has its name (%v)", err)
	}
	if _, ok, err := s.PinView(t.Context(), k, volume("1")); ok || err != nil {
		t.Errorf("PinView says %v, %v", ok, err)
	}
	s.Close()
	if err := errors.Join(unix.Unmount(final+".partial/root/README.md", 0)); err != nil {
		t.Fatal(err)
	}
	s = storetest.OpenAt(t, dir)
	if _, ok, err := s.PinView(t.Context(), k, volume("1")); ok || err != nil {
		t.Errorf("PinView after opening again says %v, %v", ok, err)
	}
	mustView(t, s, k, m, volume("1"))
}
