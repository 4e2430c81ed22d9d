package store_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
	"github.com/ballast-csi/ballast/agent/store/storetest"

	"golang.org/x/sys/unix"
)

// CheckStore is only worth what it catches: one violation is planted a row, in a copy
// of a cache that has one of everything, and the error must say what is wrong.
func TestCheckStoreFindsEveryPlantedViolation(t *testing.T) {
	model := quickDir(t)
	s, err := store.OpenWith(store.Config{Dir: model}, durabletest.Ops{Fault: func(op durabletest.Op, path string) (bool, error) {
		if op == durabletest.Link && strings.HasSuffix(path, "copied.bin") {
			return false, unix.EMLINK
		}
		return true, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	files := smallFiles()
	files["large.bin"], files["copied.bin"] = random(3, twoPieces), []byte("copied")
	m := storetest.Fill(t, s, repoA, commit1, files, isLFS)
	cache := mustView(t, s, store.ViewKey{Revision: m.Revision, Ref: mainRef, Layout: store.HubCache}, m, volume("1"))
	flat := mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m, volume("2"))
	_ = begin(t, s, originB, m.Files[0]).Close()
	s.Close()
	mustCheck(t, model)

	blob := map[string]string{}
	for _, f := range m.Files {
		blob[f.Path.String()] = string(f.Digest.Algorithm()) + "/" + f.Digest.Hex()[:2] + "/" + f.Digest.Hex()
	}
	const manifest, record, origins = "manifests/model/org--model-a/1111111111111111111111111111111111111111.json", "refs/model/org--model-a.json", "origins/model/org--model-a"
	folder := cache.Path + "/models--org--model-a"
	snapshot := folder + "/snapshots/" + commit1.String()
	pin := "pins/" + volume("1").Pin() + ".json"
	ingest := "ingests/" + store.IngestName(originB, m.Files[0].Digest)
	none := "0123456789012345678901234567890123456789"

	flipAt := func(off int64) func(string) error { return func(path string) error { return flip(path, off) } }
	put := func(content string) func(string) error {
		return func(path string) error {
			return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600))
		}
	}
	replace := func(content string) func(string) error {
		return func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, []byte(content), 0o444))
		}
	}
	chmod := func(mode os.FileMode) func(string) error {
		return func(path string) error { return os.Chmod(path, mode) }
	}
	symlink := func(to string) func(string) error {
		return func(path string) error { return errors.Join(os.RemoveAll(path), os.Symlink(to, path)) }
	}
	mkdir := func(path string) error { return os.Mkdir(path, 0o755) }
	moveTo := func(name string) func(string) error {
		return func(path string) error { return os.Rename(path, filepath.Join(filepath.Dir(path), name)) }
	}
	for _, test := range []struct {
		name, path string
		plant      func(path string) error
		want       string // in the error
	}{
		{"unknown version", "version", replace("2\n"), "layout version"},
		{"no version", "version", os.Remove, "no such file"},
		{"a directory missing", "ingests", os.RemoveAll, "no such file"},
		{"something in empty", "empty/x", put(""), "not empty"},
		{"temporary file", "pins/.tmp-1", put(""), "temporary"},

		{"blob with a flipped bit", "blobs/" + blob["weights.bin"], flipAt(9), blob["weights.bin"] + ": its bytes hash to"},
		{"blob cut short", "blobs/" + blob["README.md"], func(p string) error { return os.Truncate(p, 1) }, "hash to"},
		{"blob that can be written", "blobs/" + blob["README.md"], chmod(0o644), "mode"},
		{"blob of an unknown name", "blobs/sha256/aa/rubbish", put(""), "not a blob"},
		{"blob in another's directory", "blobs/sha256/00/" + strings.Repeat("ab", 32), put(""), "not a blob"},
		{"blob that is a symlink", "blobs/" + blob["empty"], symlink("/dev/null"), "not a blob"},
		{"blob that came through no repository", origins, replace(""), "no repository"},

		{"sums with a flipped bit", "sums/" + blob["large.bin"], flipAt(9), "sums are not"},
		{"no sums", "sums/" + blob["large.bin"], os.Remove, "no such file"},
		{"sums of one piece", "sums/" + blob["README.md"], put("12345678"), "sums of a file of 1"},
		{"sums of an unknown name", "sums/sha256/aa/rubbish", put(""), "not sums"},

		{"origins torn", origins, func(p string) error { return os.Truncate(p, 30) }, "torn"},
		{"origins of no repository", "origins/model/-bad", put(""), "repository"},
		{"origins too deep", "origins/model/a/b", put(""), "does not belong"},

		{"ingest with another name", ingest, func(p string) error { return os.Link(p, p+"2") }, "one name"},
		{"manifest with a flipped bit", manifest, flipAt(80), "corrupt"},
		{"manifest of another commit", manifest, moveTo(none + ".json"), "corrupt"},
		{"manifest in a wrong place", "manifests/model/x.json", put(""), "does not belong"},
		{"record with a flipped bit", record, flipAt(80), "corrupt"},
		{"record of another repository", record, moveTo("org--model-z.json"), "that of org/model-a"},

		{"pin with a flipped bit", pin, flipAt(60), "corrupt"},
		{"pin of another name", pin, moveTo(strings.Repeat("ab", 32) + ".json"), "corrupt"},
		{"pin that is none", "pins/x", put("{}"), "corrupt"},
		{"pin without its view", "views/" + flat.ID, os.RemoveAll, "pins/" + volume("2").Pin() + ".json: its view"},

		{"partial view", "views/0123.partial", mkdir, "not a view"},
		{"view that is a symlink", "views/" + flat.ID, symlink(cache.ID), "not a view"},
		{"view of another name", "views/" + flat.ID, moveTo(none[:32]), "has the id"},
		{"view's record with a flipped bit", "views/" + flat.ID + "/view.json", flipAt(90), "corrupt"},
		{"view's record a symlink", "views/" + flat.ID + "/view.json", symlink("../" + cache.ID + "/view.json"), "not a plain file"},
		{"something beside root", "views/" + flat.ID + "/x", put(""), "does not belong"},
		{"view of a manifest that says otherwise", manifest, func(string) error { return nil }, "not those that its filter selects"},

		{"file missing", flat.Path + "/empty", os.Remove, flat.Path + "/empty: missing"},
		{"directory missing", folder + "/blobs", os.Remove, "missing"},
		{"file too many", flat.Path + "/more", replaceNew("x"), "does not belong"},
		{"directory too many", flat.Path + "/more", mkdir, "does not belong"},
		{"equal file that is no link", flat.Path + "/README.md", replace("# hello\n"), "not a link"},
		{"link to another blob", flat.Path + "/README.md", func(p string) error {
			return errors.Join(os.Remove(p), os.Link(filepath.Join(filepath.Dir(p), "empty"), p))
		}, "not a link"},
		{"copy with a flipped bit", flat.Path + "/copied.bin", flipAt(1), "a copy that hashes"},
		{"copy cut short", flat.Path + "/copied.bin", func(p string) error { return os.Truncate(p, 1) }, "a copy of 1 bytes"},
		{"link that is called a copy", flat.Path + "/copied.bin", func(p string) error {
			return errors.Join(os.Remove(p), os.Link(filepath.Join(filepath.Dir(p), "../../../blobs", blob["copied.bin"]), p))
		}, "called a copy, and is a link"},
		{"link to the copy of another", flat.Path + "/README.md", func(p string) error {
			return errors.Join(os.Remove(p), os.Link(filepath.Join(filepath.Dir(p), "copied.bin"), p))
		}, "not a link"},
		{"symlink for a file", flat.Path + "/README.md", symlink("empty"), "not a plain file"},
		{"symlink for a directory", folder + "/blobs", symlink("snapshots"), "not a directory"},
		{"symlink too many", snapshot + "/more", symlink("README.md"), "does not belong"},
		{"directory that is closed", flat.Path + "/sub", chmod(0o700), "not a directory of mode"},
		{"ref with a newline", folder + "/refs/main", replace(commit1.String() + "\n"), "holds"},
		{"ref to another commit", folder + "/refs/main", replace(commit2.String()), "holds"},
		{"ref too many", folder + "/refs/v1", replaceNew(commit1.String()), "does not belong"},
		{"tree that lists less", folder + "/trees/" + commit1.String() + ".json", replace(`{"files":{},"format_version":1}`), "holds"},
		{"tree that can be written", folder + "/trees/" + commit1.String() + ".json", chmod(0o644), "not a plain file of mode"},
		{"file of the hub cache missing", snapshot + "/sub/dir/same.txt", os.Remove, "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(quickDir(t), "copy")
			if out, err := exec.Command("cp", "-a", model, dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			path := filepath.Join(dir, test.path)
			if err := test.plant(path); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(test.name, "view of a manifest") {
				putOtherManifest(t, dir)
			}
			err := store.CheckStore(dir)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("CheckStore says %v\nwant %q", err, test.want)
			}
		})
	}
}

func replaceNew(content string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(content), 0o444) }
}

// putOtherManifest records a Manifest of commit1 that lists something else.
func putOtherManifest(t *testing.T, dir string) {
	t.Helper()
	s, err := store.OpenWith(store.Config{Dir: dir}, durable.OS{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.PutManifest(originA, storetest.Manifest(t, repoA, commit1, map[string][]byte{"other": nil}, nil)); err != nil {
		t.Fatal(err)
	}
}
