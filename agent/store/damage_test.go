package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// One record that the disk does not give back stops nothing but what it was for, and
// that can be done again.
func TestOneUnreadableRecordDoesNotStopTheCache(t *testing.T) {
	files := smallFiles()
	pin := "pins/" + volume("snapshotstays").Pin() + ".json"
	for name, spoil := range map[string]func(path string) error{
		"a directory": func(path string) error {
			return errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "x"), 0o700))
		},
		"a loop": func(path string) error { return errors.Join(os.RemoveAll(path), os.Symlink(path, path)) },
	} {
		for _, record := range []string{pin, "views/*/view.json", "origins/model/org--model-a", "refs/model/org--model-a.json",
			"manifests/model/org--model-a/" + commit1.String() + ".json"} {
			dir := quickDir(t)
			s := storetest.OpenAt(t, dir)
			if err := useStore(s, t, files); err != nil {
				t.Fatal(err)
			}
			s.Close()
			paths, _ := filepath.Glob(filepath.Join(dir, record))
			for _, path := range paths {
				if err := spoil(path); err != nil {
					t.Fatal(err)
				}
			}
			if len(paths) == 0 || store.CheckStore(dir) == nil {
				t.Fatalf("%s is not %s", record, name)
			}
			s, err := store.Open(store.Config{Dir: dir})
			if err != nil {
				t.Fatalf("%s is %s: %v", record, name, err)
			}
			if got := s.UnreadablePins(); record == pin != slices.Equal(got, []string{volume("snapshotstays").Pin()}) {
				t.Errorf("%s is %s, and unreadable pins are %v", record, name, got)
			}
			if record == pin && !s.Pinned("any") {
				t.Errorf("%s is %s and counts for nothing", record, name)
			}
			if err := useStore(s, t, files); err != nil {
				t.Errorf("%s is %s; used again: %v", record, name, err)
			}
			if err := used(s, t, files); err != nil {
				t.Errorf("%s is %s; used again: %v", record, name, err)
			}
			s.Close()
			mustCheck(t, dir)
		}
	}
}

// A directory of records that cannot be listed is as if its records could not be read.
func TestOneDirectoryThatCannotBeListedDoesNotStopTheCache(t *testing.T) {
	for _, sub := range []string{"refs/model", "manifests/model", "origins/model", "blobs/sha256"} {
		dir := crashDir(t)
		runChild(t, dir, 0, "", 0)
		path := filepath.Join(dir, sub)
		if err := os.Chmod(path, 0); err != nil { // the child is a plain user
			t.Fatal(err)
		}
		runChild(t, dir, onlyOpen, "", 0)
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
		runChild(t, dir, 0, "", 0)
	}
}

// A file system of its own has a lost+found, which a plain user cannot look into.
func TestWhatTheStoreDidNotMakeIsLeftAlone(t *testing.T) {
	dir := crashDir(t)
	closed := filepath.Join(dir, "lost+found")
	inside := filepath.Join(closed, ".tmp-not-ours")
	if err := errors.Join(os.Mkdir(closed, 0o700), os.WriteFile(inside, nil, 0o600), os.Chmod(closed, 0)); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(closed, 0o700)
	runChild(t, dir, 0, "", 0)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(inside); err != nil {
		t.Error(err)
	}
	mustCheck(t, dir)
}

func TestIngestsThatNobodyGoesOnWithAreDropped(t *testing.T) {
	dir := quickDir(t)
	s := storetest.OpenAt(t, dir)
	files := map[string]fetcher.File{}
	for i, name := range []string{"old", "old large", "young", "open", "open large", "very old"} {
		size := 100
		if filepath.Ext(name) == "" && len(name) > 5 && name != "very old" {
			size = twoPieces
		}
		files[name] = storetest.File(t, name, random(uint64(i), size), true)
		in := begin(t, s, originA, files[name])
		if name != "open" && name != "open large" {
			in.Close()
		}
		age := map[string]time.Duration{"young": 47 * time.Hour, "very old": 8 * 24 * time.Hour}[name]
		if age == 0 {
			age = 49 * time.Hour
		}
		path := filepath.Join(dir, "ingests", store.IngestName(originA, files[name].Digest))
		if size == twoPieces {
			path += "/data"
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (names []string) {
		for name, f := range files {
			if _, err := os.Lstat(filepath.Join(dir, "ingests", store.IngestName(originA, f.Digest))); !errors.Is(err, fs.ErrNotExist) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	// Open drops those of a week ago.
	if err := s.DropStaleIngests(7 * 24 * time.Hour); err != nil || !slices.Equal(left(), []string{"old", "old large", "open", "open large", "young"}) {
		t.Errorf("after a week, left are %v (%v)", left(), err)
	}
	if err := s.DropStaleIngests(48 * time.Hour); err != nil || !slices.Equal(left(), []string{"open", "open large", "young"}) {
		t.Errorf("after two days, left are %v (%v)", left(), err)
	}
	at := time.Now().Add(-8 * 24 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "ingests", store.IngestName(originA, files["young"].Digest)), at, at); err != nil {
		t.Fatal(err)
	}
	s.Close()
	storetest.OpenAt(t, dir)
	if slices.Contains(left(), "young") {
		t.Error("Open keeps an ingest of which nobody wrote for a week")
	}
}
