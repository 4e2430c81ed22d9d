package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
	"github.com/ballast-csi/ballast/agent/store/storetest"
)

// linkless is a disk on which what a file of this name would be linked to can have no
// more links.
func linkless(names ...string) durabletest.Ops {
	return durabletest.Ops{Fault: func(op durabletest.Op, path string) (bool, error) {
		if op == durabletest.Link && slices.Contains(names, filepath.Base(path)) {
			return false, &os.LinkError{Op: "link", Old: path, New: path, Err: unix.EMLINK}
		}
		return true, nil
	}}
}

func openOn(t *testing.T, dir string, ops durable.Ops) *store.Store {
	t.Helper()
	s, err := store.OpenWith(store.Config{Dir: dir}, ops)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		mustCheck(t, dir)
	})
	return s
}

// A copy serves what comes after it as the Blob did. Those that follow each other at once
// are what a View of many identical files was before: a copy an entry.
func TestAFileWithNoMoreLinksToGiveIsCopiedOnceForAllThatFollow(t *testing.T) {
	dir := t.TempDir()
	s := openOn(t, dir, linkless("3", "6", "7", "other"))
	content := random(1, 5000)
	files := map[string][]byte{"other": content[:10]}
	for i := range 9 {
		files[fmt.Sprint(i)] = content
	}
	m := storetest.Fill(t, s, repoA, commit1, files, isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	root := filepath.Join(dir, mustView(t, s, k, m, volume("1")).Path)
	mustCheck(t, dir)
	for name, of := range map[string]string{"1": "0", "2": "0", "4": "3", "5": "3", "8": "7"} {
		file, err1 := os.Stat(filepath.Join(root, name))
		same, err2 := os.Stat(filepath.Join(root, of))
		if err := errors.Join(err1, err2); err != nil || !os.SameFile(file, same) {
			t.Errorf("%s is not a link to what %s is (%v)", name, of, err)
		}
	}
	for path, text := range tree(t, root) {
		if text != aFile+string(files[path]) {
			t.Errorf("%s is not the file", path)
		}
	}
	before := s.Stats()
	if before.CopiedBytes != 3*5000+10 {
		t.Errorf("stats are %+v", before)
	}
	s.Close()
	s = storetest.OpenAt(t, dir)
	if after := s.Stats(); after != before {
		t.Errorf("stats are %+v after opening again, %+v before", after, before)
	}
}

// The same on a file system that really has a limit (ext4: 65,000 names a file).
func TestAFileWithAsManyLinksAsTheFileSystemAllowsIsCopied(t *testing.T) {
	s := storetest.Open(t)
	m := storetest.Fill(t, s, repoA, commit1, map[string][]byte{"a": []byte("1"), "a2": []byte("1"), "b": []byte("2")}, nil)
	blob, err := s.OpenBlob(m.Files[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	full := t.TempDir()
	for n := 0; ; n++ {
		err := os.Link(blob.Name(), filepath.Join(full, fmt.Sprint(n)))
		if errors.Is(err, unix.EMLINK) {
			break
		}
		if err != nil || n > 70_000 {
			t.Skipf("%s: no limit found after %d links (%v)", full, n, err)
		}
	}
	view := mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m, volume("1"))
	mustEqual(t, tree(t, filepath.Join(s.Dir(), view.Path)), map[string]string{"a": aFile + "1", "a2": aFile + "1", "b": aFile + "2"})
	if st := s.Stats(); st.CopiedBytes != 1 {
		t.Errorf("stats are %+v", st)
	}
}

// What one View needs of the process does not grow with it.
func TestAViewOfManyCopiesTakesFewOpenFiles(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	most := 0
	s := openOn(t, quickDir(t), durabletest.Ops{Fault: func(op durabletest.Op, path string) (bool, error) {
		if op != durabletest.Link {
			return true, nil
		}
		most = max(most, open())
		return false, unix.EMLINK
	}})
	files := map[string][]byte{}
	for i := range 200 {
		files[fmt.Sprintf("%d/%d", i, i)] = []byte("same")
	}
	m := storetest.Fill(t, s, repoA, commit1, files, nil)
	before := open()
	mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m, volume("1"))
	if most > before+20 {
		t.Errorf("%d files were open, %d before", most, before)
	}
}

// Copies, and the directories and names of a great View, leave alone what downloads do.
func TestAViewLeavesWhatDownloadsLeaveFree(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const reserve = 6 << 20
	wide := map[string][]byte{}
	for i := range 400 {
		wide[fmt.Sprintf("%d/f", i)] = []byte("x")
	}
	same := func(n, size int) map[string][]byte {
		files := map[string][]byte{}
		for i := range n {
			files[fmt.Sprint(i)] = random(1, size)
		}
		return files
	}
	for name, test := range map[string]struct {
		files map[string][]byte
		taken int // bytes of the disk, by others
		want  error
		says  string
	}{
		"copies":                   {same(3, 10<<20), 5 << 20, store.ErrNoSpace, "2: no space in the cache: 10485760 bytes are needed beyond the 6291456 that downloads leave"},
		"copies for which is room": {same(3, 10<<20), 0, nil, ""},
		"a copy too large":         {same(2, 18<<20), 0, store.ErrTooLarge, "1: with 1 copies, as there can be no more links to it: the file is larger than the disk"},
		"directories":              {wide, 33 << 20, store.ErrNoSpace, "bytes are needed beyond"},
		"few of them":              {map[string][]byte{"d/f": []byte("x")}, 33 << 20, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			disk := smallDisk(t)
			links := linkless("1", "2", "3", "4")
			s, err := store.OpenWith(store.Config{Dir: filepath.Join(disk, "cache"), Reserve: reserve}, links)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				s.Close()
				mustCheck(t, s.Dir())
			}()
			m := storetest.Fill(t, s, repoA, commit1, test.files, isLFS)
			if err := os.WriteFile(filepath.Join(disk, "taken"), make([]byte, test.taken), 0o600); err != nil {
				t.Fatal(err)
			}
			k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
			err = s.AssembleView(t.Context(), k, m)
			if !errors.Is(err, test.want) || test.want != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("AssembleView says %v\nwant %v: %s", err, test.want, test.says)
			}
			if left, _ := filepath.Glob(s.Dir() + "/views/*.partial"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(disk, &st); err != nil {
				t.Fatal(err)
			}
			if free := int64(st.Bavail) * st.Frsize; free < reserve {
				t.Errorf("%d bytes are left, %d were to be kept", free, reserve)
			}
		})
	}
}
