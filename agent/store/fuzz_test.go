package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// What is on disk may have been written by a process that was broken into, or by nobody.
// The sum of a record is no proof, so these targets hand every reader records whose sum
// is right.

// sealed is a record that holds inner, or nothing if inner is no JSON.
func sealed(inner []byte) []byte {
	if !json.Valid(inner) {
		return nil
	}
	data, err := encodeRecord(json.RawMessage(inner))
	if err != nil {
		return nil
	}
	return data
}

// seeds gives the target what each value is as JSON, and what is nearly that.
func seeds(f *testing.F, values ...any) {
	for _, v := range values {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(bytes.ReplaceAll(data, []byte(":"), []byte(":[")))
		f.Add(bytes.ReplaceAll(data, []byte("org/name"), []byte("../../etc")))
		f.Add(bytes.ReplaceAll(data, []byte("1111"), []byte("")))
	}
	for _, odd := range []string{"", "null", "{}", "[]", "0", `"x"`, `{"files":null}`, `{"files":[{}]}`, strings.Repeat("[", 9_000), `{"size":1e400}`} {
		f.Add([]byte(odd))
	}
}

// fuzzManifest is a good one, with a directory and both kinds of Digest.
func fuzzManifest(f *testing.F) *fetcher.Manifest {
	m := &fetcher.Manifest{}
	text := `{"revision":{"repo":"org/name","commit":"1111111111111111111111111111111111111111"},"authority":"hub","files":[
		{"path":"a/b.json","size":2,"digest":"git-blob-sha1:1111111111111111111111111111111111111111","oid":"1111111111111111111111111111111111111111"},
		{"path":"model","size":5,"digest":"sha256:` + strings.Repeat("1", 64) + `","xetHash":"` + strings.Repeat("2", 64) + `"}]}`
	if err := errors.Join(json.Unmarshal([]byte(text), m), m.Check()); err != nil {
		f.Fatal(err)
	}
	return m
}

// local reports whether path is one that can be joined to a directory.
func local(path string) bool {
	return filepath.IsLocal(path) && filepath.Clean(path) == path && !strings.Contains(path, "\x00")
}

// FuzzRecord reads bytes that need not be a record at all.
func FuzzRecord(f *testing.F) {
	for _, inner := range []string{`{"a":1}`, "null", "[]", `"x"`} {
		f.Add(sealed([]byte(inner)))
	}
	f.Add([]byte(`{"xxhash64":"0","record":{}}`))
	f.Add([]byte(`{"record":`))
	f.Add(bytes.Repeat([]byte(`{"record":`), 9_000))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		if err := decodeRecord(data, &v); err != nil {
			if !errors.Is(err, errCorrupt) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		again, err := encodeRecord(v)
		if err != nil {
			t.Fatalf("cannot be written again: %v", err)
		}
		if err := decodeRecord(again, &v); err != nil {
			t.Errorf("written again it cannot be read: %v", err)
		}
	})
}

func FuzzPin(f *testing.F) {
	seeds(f, Pin{Volume{"vol", "/pods/1/mount"}, strings.Repeat("1", 32), time.Unix(1, 0)}, Pin{Volume{"\x00", "../.."}, "../../etc", time.Time{}})
	path := filepath.Join(f.TempDir(), "pin")
	f.Fuzz(func(t *testing.T, inner []byte) {
		var claimed Pin
		_ = json.Unmarshal(inner, &claimed) // its name is the right one
		write(t, path, sealed(inner))
		pin, err := readPin(path, claimed.Volume.Pin())
		if err == nil && (!isHex64(pin.Volume.Pin()) || pin.View == "") {
			t.Errorf("read %+v", pin)
		}
	})
}

func FuzzManifestRecord(f *testing.F) {
	seeds(f, fuzzManifest(f))
	path := filepath.Join(f.TempDir(), "manifest")
	f.Fuzz(func(t *testing.T, inner []byte) {
		var claimed fetcher.Manifest
		_ = json.Unmarshal(inner, &claimed)
		write(t, path, sealed(inner))
		o := Origin{Repo: claimed.Revision.Repo}
		if IsAuthorityName(claimed.Authority) {
			o.Authority = claimed.Authority // a local one's record, of the right name
		}
		m, err := readManifest(path, o, claimed.Revision.Commit)
		if err != nil {
			return
		}
		if err := m.Check(); err != nil {
			t.Errorf("read one that is none: %v", err)
		}
		for _, file := range m.Files {
			if !local(file.Path.String()) || !local(digestPath(file.Digest)) || file.Size < 0 {
				t.Errorf("read %+v", file)
			}
		}
		if s := (&Store{dir: "/cache"}); !strings.HasPrefix(s.manifestPath(o, m.Revision.Commit), "/cache/manifests/") {
			t.Errorf("%s is recorded at %s", m.Revision, s.manifestPath(o, m.Revision.Commit))
		}
	})
}

// FuzzView reads view.json, and plans what such a View holds.
func FuzzView(f *testing.F) {
	m := fuzzManifest(f)
	seeds(f, viewRecord{Revision: m.Revision, Layout: Snapshot, Files: m.Files},
		viewRecord{Revision: m.Revision, Ref: "refs/pr/1", Include: []string{"*.json"}, Exclude: []string{"[a"}, Layout: HubCache, Files: m.Files, Copied: []string{"model"}},
		viewRecord{Revision: m.Revision, Authority: "models", Listing: Listing(m), Layout: Snapshot, Files: m.Files},
		viewRecord{Revision: m.Revision, Authority: "../x", Listing: "y", Layout: Snapshot, Files: m.Files},
		viewRecord{Revision: m.Revision, Ref: "../../x", Layout: "other", Generation: -1})
	top := f.TempDir()
	f.Fuzz(func(t *testing.T, inner []byte) {
		var rec viewRecord
		_ = json.Unmarshal(inner, &rec)
		k, err := rec.key()
		if err != nil {
			return
		}
		dir := filepath.Join(top, k.view().ID)
		if err := os.MkdirAll(filepath.Join(dir, rootDir), 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		write(t, filepath.Join(dir, viewFile), sealed(inner))
		if _, err := readView(dir); err != nil {
			return
		}
		if listed := (&fetcher.Manifest{Revision: rec.Revision, Authority: "view", Files: rec.Files}); listed.Check() != nil {
			return // nothing is made or compared by such a list
		}
		list, err := plan(rec)
		if err != nil {
			return
		}
		for _, e := range list {
			if !local(e.path) {
				t.Errorf("a view with %q in it", e.path)
			}
		}
	})
}

func FuzzRepoRecord(f *testing.F) {
	m := fuzzManifest(f)
	rec := RepoRecord{Refs: map[string]RefRecord{"main": {Commit: m.Revision.Commit, ResolvedAt: time.Unix(1, 0), Authority: "hub"}}, PublicAt: time.Unix(1, 0)}
	local := RepoRecord{Refs: rec.Refs, Listed: map[string]ListedRecord{m.Revision.Commit.String(): {
		Listing: Listing(m), At: time.Unix(1, 0), Differs: Listing(m), How: "model is another",
	}}}
	seeds(f, repoFile{m.Revision.Repo, "", rec}, repoFile{m.Revision.Repo, "models", local}, repoFile{m.Revision.Repo, "../x", rec})
	path, s := filepath.Join(f.TempDir(), "repo"), &Store{dir: "/cache"}
	f.Fuzz(func(t *testing.T, inner []byte) {
		write(t, path, sealed(inner))
		var rec repoFile
		if err := readRecord(path, &rec); err == nil && rec.by().check() == nil && !strings.HasPrefix(s.repoPath(rec.by()), "/cache/refs/") {
			t.Errorf("read %+v", rec)
		}
	})
}

func FuzzOrigins(f *testing.F) {
	line := "sha256:" + strings.Repeat("1", 64) + "\n"
	for _, seed := range []string{"", line, line + line, line[:20], line + "sha256:", "\n", "git-blob-sha1:" + strings.Repeat("2", 40) + "\n", "md5:1\n", "sha256:" + strings.Repeat("G", 64) + "\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		digests, whole := parseOrigins(text)
		if whole != bytes.Equal(originLines(digests), text) {
			t.Errorf("whole: %v, and its lines are %q", whole, originLines(digests))
		}
		if again, whole := parseOrigins(originLines(digests)); !whole || !slices.Equal(again, digests) {
			t.Errorf("%v written again is %v", digests, again)
		}
	})
}

func FuzzJournal(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal")
	file, err := os.Create(path)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(journal{file}.add(0, 1), journal{file}.add(7, 1<<63), journal{file}.add(-1, 0), file.Close()); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, 8)
	f.Add(good, 0)
	f.Add(good[:30], 1<<20)
	f.Add(append(good[5:], good...), 8)
	f.Fuzz(func(t *testing.T, text []byte, pieces int) {
		if pieces < 0 {
			return
		}
		write(t, path, text)
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		sums, err := journal{file}.load(pieces)
		if err != nil {
			t.Fatal(err)
		}
		for index := range sums {
			if index < 0 || index >= pieces {
				t.Errorf("piece %d of %d", index, pieces)
			}
		}
		if info, err := file.Stat(); err != nil || info.Size()%journalRecord != 0 || len(sums) > len(text)/journalRecord {
			t.Errorf("%d sums of %d bytes; %v is left", len(sums), len(text), info.Size())
		}
	})
}

// FuzzNames reads names in the cache directory.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"org--name", "org--name@62a", "org--name+models", "org--name+models@62a", "org--name+", "a+b+c", "name", "--", "..--..", "a--b--c", "@", "a@", ".tmp-1", strings.Repeat("1", 32), strings.Repeat("1", 32) + "-suspect1", strings.Repeat("1", 64)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if o, err := unflatOrigin(fetcher.Model, name); err == nil && !local(o.flat()) {
			t.Errorf("%q is %+v", name, o)
		}
		if d, err := fetcher.NewDigest(fetcher.SHA256, name); err == nil && !local(digestPath(d)) {
			t.Errorf("%q is %s", name, d)
		}
		if id, ok := suspectOf(name); ok && !local(id) {
			t.Errorf("%q is the view %q set aside", name, id)
		}
	})
}

func FuzzLayoutVersion(f *testing.F) {
	for _, seed := range []string{version, version + "\n", "", "\n", "2\n", version + "\n\n", " " + version} {
		f.Add([]byte(seed))
	}
	s := &Store{dir: f.TempDir()}
	f.Fuzz(func(t *testing.T, text []byte) {
		write(t, s.path(versionFile), text)
		if err := s.checkVersion(); (err == nil) != (strings.TrimSuffix(string(text), "\n") == version) {
			t.Errorf("version %q: %v", text, err)
		}
	})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, fs.FileMode(privateFile)); err != nil {
		t.Fatal(err)
	}
}
