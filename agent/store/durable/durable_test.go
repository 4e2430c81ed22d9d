package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
)

var errInjected = errors.New("injected")

// record returns Ops that note each operation, with its path relative to dir, and the
// notes so far.
func record(dir string) (durabletest.Ops, func() []string) {
	var mu sync.Mutex
	var notes []string
	after := func(op durabletest.Op, path string) {
		mu.Lock()
		defer mu.Unlock()
		rel, _ := filepath.Rel(dir, path)
		if durable.IsTemp(filepath.Base(rel)) {
			rel = filepath.Join(filepath.Dir(rel), "TEMP")
		}
		notes = append(notes, string(op)+" "+rel)
	}
	return durabletest.Ops{After: after}, func() []string { mu.Lock(); defer mu.Unlock(); return notes }
}

func TestEachChangeIsSyncedInTheDocumentedOrder(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(d durable.Disk, dir string) error
		want string
	}{
		{"WriteFile", func(d durable.Disk, dir string) error { return d.WriteFile(dir+"/sub/f", []byte("x"), 0o600) },
			"sync sub/TEMP, rename sub/f, sync sub"},
		{"Append to a new file", func(d durable.Disk, dir string) error { return d.Append(dir+"/sub/new", []byte("x"), 0o600) },
			"sync sub/new, sync sub"},
		{"Append", func(d durable.Disk, dir string) error { return d.Append(dir+"/sub/old", []byte("x"), 0o600) },
			"sync sub/old"},
		{"Remove", func(d durable.Disk, dir string) error { return d.Remove(dir + "/sub/old") }, "sync sub"},
		{"Remove of nothing", func(d durable.Disk, dir string) error { return d.Remove(dir + "/sub/none") }, "sync sub"},
		{"RemoveAll", func(d durable.Disk, dir string) error { return d.RemoveAll(dir + "/sub") }, "sync ."},
		{"MkdirAll", func(d durable.Disk, dir string) error { return d.MkdirAll(dir+"/sub/a/b", 0o755) }, "sync sub, sync sub/a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Mkdir(dir+"/sub", 0o755), os.WriteFile(dir+"/sub/old", nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			ops, notes := record(dir)
			if err := test.do(durable.New(ops), dir); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(notes(), ", "); got != test.want {
				t.Errorf("did  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestBatchSyncsAllThenRenamesInOrderThenSyncsEachDirectoryOnce(t *testing.T) {
	dir := t.TempDir()
	ops, notes := record(dir)
	b := durable.New(ops).Batch()
	for _, sub := range []string{"in", "out"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"c", "a", "b"} {
		f, err := os.Create(filepath.Join(dir, "in", name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b.Sync(f)
		b.Rename(f.Name(), filepath.Join(dir, "out", name))
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	got := notes()
	slices.Sort(got[:3]) // side by side
	slices.Sort(got[6:])
	want := []string{"sync in/a", "sync in/b", "sync in/c", "rename out/c", "rename out/a", "rename out/b", "sync in", "sync out"}
	if !slices.Equal(got, want) {
		t.Errorf("did  %q\nwant %q", got, want)
	}
}

func TestBatchRenamesNothingWhenAFileCannotBeSyncedAndSaysWhich(t *testing.T) {
	for _, apply := range []bool{false, true} {
		dir := t.TempDir()
		d := durable.New(durabletest.Ops{Fault: func(op durabletest.Op, path string) (bool, error) {
			if op == durabletest.Sync && filepath.Base(path) == "bad" {
				return apply, errInjected
			}
			return true, nil
		}})
		b := d.Batch()
		for _, name := range []string{"good", "bad"} {
			f, err := os.Create(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b.Sync(f)
			b.Rename(f.Name(), f.Name()+".done")
		}
		err := b.Commit()
		lost := durable.SyncErrors(err)
		if !errors.Is(err, errInjected) || len(lost) != 1 || filepath.Base(lost[0].File.Name()) != "bad" {
			t.Errorf("Commit says %v, of which lost: %v", err, lost)
		}
		if done, _ := filepath.Glob(dir + "/*.done"); len(done) > 0 {
			t.Errorf("renamed: %v", done)
		}
	}
}

// Whatever fails, in either form, the file has the old content or the new, whole, and
// nothing is left beside it.
func TestWriteFileThatFailsLeavesTheOldOrTheNewFileAndNoOther(t *testing.T) {
	for _, op := range []durabletest.Op{durabletest.Sync, durabletest.Rename} {
		for nth := 1; nth <= 2; nth++ {
			for _, apply := range []bool{false, true} {
				dir := t.TempDir()
				path := filepath.Join(dir, "f")
				if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
					t.Fatal(err)
				}
				seen := 0
				d := durable.New(durabletest.Ops{Fault: func(got durabletest.Op, _ string) (bool, error) {
					if got == op {
						if seen++; seen == nth {
							return apply, errInjected
						}
					}
					return true, nil
				}})
				err := d.WriteFile(path, []byte("new"), 0o600)
				if (err != nil) != (seen >= nth) {
					t.Errorf("%s %d (applied %v): error %v", op, nth, apply, err)
				}
				content, _ := os.ReadFile(path)
				named := op == durabletest.Rename && apply || op == durabletest.Sync && nth == 2 || err == nil
				if want := map[bool]string{false: "old", true: "new"}[named]; string(content) != want {
					t.Errorf("%s %d (applied %v): content %q, want %q", op, nth, apply, content, want)
				}
				if entries, _ := os.ReadDir(dir); len(entries) != 1 {
					t.Errorf("%s %d (applied %v): left behind: %v", op, nth, apply, entries)
				}
			}
		}
	}
}

func TestMkdirAllLeavesNoDirectoryThatMightNotBeDurable(t *testing.T) {
	dir := t.TempDir()
	d := durable.New(durabletest.Ops{Fault: func(durabletest.Op, string) (bool, error) { return false, errInjected }})
	if err := d.MkdirAll(dir+"/a", 0o755); !errors.Is(err, errInjected) {
		t.Fatalf("MkdirAll says %v", err)
	}
	if _, err := os.Stat(dir + "/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there (%v)", err)
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := t.TempDir()
	d := durable.New(durable.OS{})
	if err := errors.Join(d.MkdirAll(dir+"/a/b", 0o755), d.WriteFile(dir+"/a/f", nil, 0o444)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{"a": 0o755, "a/b": 0o755, "a/f": 0o444} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode().Perm(), want, err)
		}
	}
}

func TestAppendSaysWhenTheEndOfTheFileIsUnknown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	d := durable.New(durabletest.Ops{Fault: func(durabletest.Op, string) (bool, error) { return true, errInjected }})
	if err := d.Append(path, []byte("x"), 0o600); !errors.Is(err, errInjected) {
		t.Errorf("Append says %v", err)
	}
}
