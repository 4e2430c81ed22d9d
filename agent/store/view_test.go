package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// tree returns what is below root, by path: "dir" or the content, and the mode.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		text := "dir"
		if !e.IsDir() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(content)
		}
		got[strings.TrimPrefix(path, root+"/")] = info.Mode().String() + " " + text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mustEqual(t *testing.T, got, want map[string]string) {
	t.Helper()
	for path, text := range want {
		if got[path] != text {
			t.Errorf("%s: got  %q\nwant %q", path, got[path], text)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s should not be there: %q", path, got[path])
		}
	}
}

const (
	aDir  = "drwxr-xr-x dir"
	aFile = "-r--r--r-- "
)

func TestASnapshotViewHasTheFilesAtItsRoot(t *testing.T) {
	s := storetest.Open(t)
	old := unix.Umask(0o077) // as a careful node's
	defer unix.Umask(old)
	m := storetest.Fill(t, s, repoA, commit1, map[string][]byte{"a": []byte("1"), "d/e/b.bin": []byte("2"), "d/c": nil}, isLFS)
	view := mustView(t, s, store.ViewKey{Revision: m.Revision, Ref: mainRef, Layout: store.Snapshot}, m, volume("1"))
	mustEqual(t, tree(t, filepath.Join(s.Dir(), view.Path)), map[string]string{
		"a": aFile + "1", "d": aDir, "d/c": aFile, "d/e": aDir, "d/e/b.bin": aFile + "2",
	})
}

// The text is what huggingface_hub's json.dump(indent=1, sort_keys=True) writes, but
// for what is not ASCII, which it escapes and reads either way.
const goldenTree = `{
 "files": {
  "a": {
   "blob_id": "56a6051ca2b02b04ef92d5150c9ef600403cb1de",
   "size": 1
  },
  "b&.bin": {
   "blob_id": "POINTER",
   "lfs_sha256": "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35",
   "lfs_size": 1,
   "size": 1,
   "xet_hash": "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
  },
  "e.bin": {
   "blob_id": "0123456789012345678901234567890123456789",
   "lfs_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
   "lfs_size": 0,
   "size": 0
  }
 },
 "format_version": 1
}`

func TestAHubCacheViewIsWhatHuggingfaceHubReads(t *testing.T) {
	s := storetest.Open(t)
	m := storetest.Fill(t, s, repoB, commit1, map[string][]byte{"a": []byte("1"), "b&.bin": []byte("2"), "e.bin": nil}, isLFS)
	m.Files[1].XetHash = m.Files[1].Digest.Hex()
	m.Files[2].OID = "0123456789012345678901234567890123456789"
	m.Files[2].XetHash = strings.Repeat("*", 64) // what a gated repository shows
	if err := s.PutManifest(originB, m); err != nil {
		t.Fatal(err)
	}
	// git hash-object of the LFS pointer, which names the file in git.
	golden := strings.Replace(goldenTree, "POINTER", "252faa6bfe3ec2b69d80ccdd6607473fd4d85313", 1)
	pr := must(fetcher.ParseRef("refs/pr/1"))
	for _, test := range []struct {
		ref  fetcher.Ref
		want map[string]string
	}{
		{mainRef, map[string]string{"main": aFile + commit1.String()}},
		{pr, map[string]string{"refs": aDir, "refs/pr": aDir, "refs/pr/1": aFile + commit1.String()}},
		{commit1.Ref(), nil},
		{fetcher.Ref{}, nil},
	} {
		view := mustView(t, s, store.ViewKey{Revision: m.Revision, Ref: test.ref, Layout: store.HubCache}, m, volume("of "+test.ref.String()))
		const folder = "datasets--org--data-b"
		snapshot := folder + "/snapshots/" + commit1.String()
		want := map[string]string{
			".locks": aDir, ".locks/" + folder: aDir, folder: aDir, folder + "/blobs": aDir, folder + "/refs": aDir,
			folder + "/snapshots": aDir, snapshot: aDir, snapshot + "/a": aFile + "1", snapshot + "/b&.bin": aFile + "2", snapshot + "/e.bin": aFile,
			folder + "/trees": aDir, folder + "/trees/" + commit1.String() + ".json": aFile + golden,
		}
		for path, text := range test.want {
			want[folder+"/refs/"+path] = text
		}
		got := tree(t, filepath.Join(s.Dir(), view.Path))
		if tag := got["CACHEDIR.TAG"]; !strings.HasPrefix(tag, aFile+"Signature: 8a477f597d28d172789f06886806bc55") {
			t.Errorf("CACHEDIR.TAG: %q", tag)
		}
		delete(got, "CACHEDIR.TAG")
		mustEqual(t, got, want)
	}
	if st := s.Stats(); st.Views != 3 {
		t.Errorf("%d views; a commit and no ref at all must share one", st.Views)
	}
}

func TestViewsOfDifferentThingsHaveDifferentIDsAndOfTheSameThingTheSame(t *testing.T) {
	s := storetest.Open(t)
	files := map[string][]byte{"a": []byte("1"), "b": []byte("2")}
	m := storetest.Fill(t, s, repoA, commit1, files, nil)
	two := storetest.Fill(t, s, repoA, commit2, files, nil)
	data := storetest.Fill(t, s, must(fetcher.ParseRepo("datasets/org/model-a")), commit1, files, nil)
	filter := func(in, ex []string) fetcher.Filter { return must(fetcher.NewFilter(in, ex)) }
	v1 := must(fetcher.ParseRef("v1"))
	seen := map[string]string{}
	for _, k := range []struct {
		store.ViewKey
		m    *fetcher.Manifest
		like string // what it is the same View as; "" for a new one
	}{
		{store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m, "1"},
		{store.ViewKey{Revision: m.Revision, Layout: store.Snapshot, Ref: mainRef}, m, "1"},
		{store.ViewKey{Revision: m.Revision, Layout: store.HubCache}, m, "2"},
		{store.ViewKey{Revision: m.Revision, Layout: store.HubCache, Ref: commit1.Ref()}, m, "2"},
		{store.ViewKey{Revision: m.Revision, Layout: store.HubCache, Ref: mainRef}, m, "3"},
		{store.ViewKey{Revision: m.Revision, Layout: store.HubCache, Ref: v1}, m, "4"},
		{store.ViewKey{Revision: m.Revision, Layout: store.Snapshot, Filter: filter([]string{"a", "b"}, nil)}, m, "5"},
		{store.ViewKey{Revision: m.Revision, Layout: store.Snapshot, Filter: filter([]string{"b", "a", "a"}, nil)}, m, "5"},
		{store.ViewKey{Revision: m.Revision, Layout: store.Snapshot, Filter: filter([]string{"ab"}, nil)}, m, "6"},
		{store.ViewKey{Revision: m.Revision, Layout: store.Snapshot, Filter: filter(nil, []string{"ab"})}, m, "7"},
		{store.ViewKey{Revision: m.Revision, Layout: store.Snapshot, Filter: filter([]string{"a"}, []string{"b"})}, m, "8"},
		{store.ViewKey{Revision: two.Revision, Layout: store.Snapshot}, two, "9"},
		{store.ViewKey{Revision: data.Revision, Layout: store.Snapshot}, data, "10"},
	} {
		selected, err := k.m.Select(t.Context(), k.Filter)
		if err != nil {
			t.Fatal(err)
		}
		id := mustView(t, s, k.ViewKey, selected, volume(fmt.Sprint(k.ViewKey))).ID
		if like, ok := seen[id]; ok && like != k.like {
			t.Errorf("%v is taken for view %s, not %s", k.ViewKey, like, k.like)
		}
		seen[id] = k.like
	}
	if len(seen) != 10 {
		t.Errorf("%d views, want 10", len(seen))
	}
}

func TestAssembleViewRefusesWhatItCannotShow(t *testing.T) {
	s := storetest.Open(t)
	m := storetest.Fill(t, s, repoA, commit1, map[string][]byte{"a": []byte("1"), "b": []byte("2")}, nil)
	more := storetest.Manifest(t, repoA, commit1, map[string][]byte{"a": []byte("1"), "d/gone.txt": []byte("3")}, nil)
	other := storetest.Manifest(t, repoA, commit2, nil, nil)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	key := store.ViewKey{Revision: m.Revision, Layout: store.HubCache}
	for name, test := range map[string]struct {
		ctx  context.Context
		k    store.ViewKey
		m    *fetcher.Manifest
		want string
	}{
		"a blob is missing":        {t.Context(), key, more, "d/gone.txt"},
		"another revision":         {t.Context(), key, other, "manifest is that of"},
		"unknown layout":           {t.Context(), store.ViewKey{Revision: m.Revision, Layout: "x"}, m, "layout"},
		"no revision":              {t.Context(), store.ViewKey{Layout: store.Snapshot}, m, "revision"},
		"cancelled":                {cancelled, key, m, "canceled"},
		"manifest that makes none": {t.Context(), key, &fetcher.Manifest{Revision: m.Revision}, "authority"},
	} {
		err := s.AssembleView(test.ctx, test.k, test.m)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: AssembleView says %v", name, err)
		}
		if name == "a blob is missing" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v does not match fs.ErrNotExist", name, err)
		}
	}
	if left, _ := filepath.Glob(s.Dir() + "/views/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, ok, err := s.PinView(t.Context(), key, volume("1")); ok || err != nil {
		t.Errorf("PinView of no view says %v, %v", ok, err)
	}
}
