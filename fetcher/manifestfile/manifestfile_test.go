package manifestfile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/manifestfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ fetcher.Authority = (*manifestfile.Files)(nil)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func repoOf(t testing.TB, s string) fetcher.Repo { return must[fetcher.Repo](t)(fetcher.ParseRepo(s)) }
func refOf(t testing.TB, s string) fetcher.Ref   { return must[fetcher.Ref](t)(fetcher.ParseRef(s)) }

// commitOf is the commit of 40 such digits.
func commitOf(t testing.TB, digit string) fetcher.Commit {
	return must[fetcher.Commit](t)(fetcher.ParseCommit(strings.Repeat(digit, 40)))
}

// listing is a Manifest of some files whose content is seed's.
func listing(t testing.TB, repo, digit, seed string) *fetcher.Manifest {
	t.Helper()
	var files []fetcher.File
	for _, name := range []string{"config.json", "sub/naïve & <b>.txt", "model.safetensors"} {
		alg := fetcher.GitBlobSHA1
		if strings.HasPrefix(name, "model") {
			alg = fetcher.SHA256
		}
		h := fetcher.NewHasher(alg, int64(len(name+seed)))
		h.Write([]byte(name + seed))
		f := fetcher.File{Path: must[fetcher.Path](t)(fetcher.ParsePath(name)), Size: int64(len(name + seed)), Digest: must[fetcher.Digest](t)(h.Digest())}
		if alg == fetcher.SHA256 {
			f.OID, f.XetHash = strings.Repeat("a", 40), strings.Repeat("b", 64)
		}
		files = append(files, f)
	}
	return must[*fetcher.Manifest](t)(fetcher.NewManifest(fetcher.Revision{Repo: repoOf(t, repo), Commit: commitOf(t, digit)}, "hub", files))
}

func textOf(t testing.TB, ref string, m *fetcher.Manifest) string {
	t.Helper()
	var text bytes.Buffer
	if err := manifestfile.Write(&text, refOf(t, ref), m); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// directory is a directory of manifest files and what was logged about it.
type directory struct {
	*manifestfile.Files
	t   *testing.T
	dir string
	log *observer.ObservedLogs
}

func newDirectory(t *testing.T) *directory {
	t.Helper()
	core, log := observer.New(zap.WarnLevel)
	d := &directory{t: t, dir: t.TempDir(), log: log}
	d.Files = must[*manifestfile.Files](t)(manifestfile.New(manifestfile.Config{Dir: d.dir, Log: zap.New(core)}))
	return d
}

// put writes a file as it is, in place of one.
func (d *directory) put(name, text string) {
	d.t.Helper()
	file := filepath.Join(d.dir, name)
	if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
		d.t.Fatal(err)
	}
}

// commit is what Resolve says, or its error.
func (d *directory) commit(repo, ref string) (string, error) {
	found, err := d.Resolve(d.t.Context(), repoOf(d.t, repo), refOf(d.t, ref), fetcher.Secret{})
	return found.Commit.String(), err
}

func (d *directory) want(repo, ref, digit string) {
	d.t.Helper()
	if got, err := d.commit(repo, ref); err != nil || got != strings.Repeat(digit, 40) {
		d.t.Errorf("%s at %s is %q, %v", repo, ref, got, err)
	}
}

func (d *directory) wantError(repo, ref string, kind error, texts ...string) {
	d.t.Helper()
	got, err := d.commit(repo, ref)
	if !errors.Is(err, kind) {
		d.t.Fatalf("%s at %s is %q, %v; want %v", repo, ref, got, err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			d.t.Errorf("%s at %s: %v\nwant %s", repo, ref, err, text)
		}
	}
}

func TestAFileAnswersForItsRefsAndItsCommit(t *testing.T) {
	d := newDirectory(t)
	m, data := listing(t, "org/name", "1", "x"), listing(t, "datasets/org/name", "2", "y")
	d.put("a.json", textOf(t, "main", m))
	d.put("b.json", textOf(t, "refs/pr/1", data))
	d.put("notes.txt", "not ours")
	d.want("org/name", "main", "1")
	d.want("org/name", strings.Repeat("1", 40), "1")
	d.want("datasets/org/name", "refs/pr/1", "2")
	d.wantError("org/name", "v2", fetcher.ErrRevisionNotFound, "main", strings.Repeat("1", 40), d.dir)
	d.wantError("org/name", strings.Repeat("2", 40), fetcher.ErrRevisionNotFound)
	d.wantError("datasets/org/name", "main", fetcher.ErrRevisionNotFound)
	d.wantError("org/other", "main", fetcher.ErrNotFound, d.dir)
	for _, want := range []*fetcher.Manifest{m, data} {
		got, err := d.Manifest(t.Context(), want.Revision, fetcher.Secret{})
		if err != nil || got.Authority != manifestfile.DefaultName || got.Revision != want.Revision || !slices.Equal(got.Files, want.Files) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	if _, err := d.Manifest(t.Context(), fetcher.Revision{Repo: m.Revision.Repo, Commit: commitOf(t, "3")}, fetcher.Secret{}); !errors.Is(err, fetcher.ErrRevisionNotFound) {
		t.Errorf("a commit of no file: %v", err)
	}
	if d.log.Len() != 0 {
		t.Errorf("it logged %v", d.log.All())
	}
}

func TestAPinnedCommitsFileAnswersForNoRef(t *testing.T) {
	d := newDirectory(t)
	d.put("a.json", textOf(t, strings.Repeat("1", 40), listing(t, "org/name", "1", "x")))
	d.want("org/name", strings.Repeat("1", 40), "1")
	d.wantError("org/name", "main", fetcher.ErrRevisionNotFound)
}

// A mounted ConfigMap: each file is a link into ..data, which is a link to a directory, and
// that is replaced by a rename.
func TestAConfigMapsNewContentCountsAtOnce(t *testing.T) {
	d := newDirectory(t)
	mount := func(generation string, files map[string]string) {
		t.Helper()
		in := filepath.Join(d.dir, "..2026_"+generation)
		err := os.Mkdir(in, 0o700)
		for name, text := range files {
			err = errors.Join(err, os.WriteFile(filepath.Join(in, name), []byte(text), 0o600))
			if link := filepath.Join(d.dir, name); errors.Is(errors.Unwrap(os.Symlink("..data/"+name, link)), os.ErrExist) {
				continue
			}
		}
		if err = errors.Join(err, os.Symlink("..2026_"+generation, filepath.Join(d.dir, "..data_tmp")), os.Rename(filepath.Join(d.dir, "..data_tmp"), filepath.Join(d.dir, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	first, second := textOf(t, "main", listing(t, "org/name", "1", "x")), textOf(t, "main", listing(t, "org/name", "2", "x"))
	mount("1", map[string]string{"a.json": first, "b.json": textOf(t, "main", listing(t, "org/gone", "1", "x"))})
	d.want("org/name", "main", "1")
	d.want("org/gone", "main", "1")
	mount("2", map[string]string{"a.json": second})
	d.want("org/name", "main", "2")
	d.wantError("org/gone", "main", fetcher.ErrNotFound)
	if d.log.Len() != 0 {
		t.Errorf("it logged %v", d.log.All())
	}
}

func TestABadFileIsToldOnceAndTheOthersWork(t *testing.T) {
	good := textOf(t, "main", listing(t, "org/bad", "1", "x"))
	for name, c := range map[string]struct{ text, want string }{
		"cut short":          {good[:len(good)/2], "unexpected end"},
		"an unknown field":   {strings.Replace(good, `"refs"`, `"ref": 1, "refs"`, 1), `unknown field "ref"`},
		"of another case":    {strings.Replace(good, `"commit"`, `"Commit"`, 1), `unknown field "Commit"`},
		"a field twice":      {strings.Replace(good, `"commit"`, `"files": [], "commit"`, 1), `duplicate field "files"`},
		"in a file":          {strings.Replace(good, `"size"`, `"mode": 7, "size"`, 1), "mode"},
		"more after it":      {good + "{}", "after top-level value"},
		"a newer version":    {strings.Replace(good, `"version": 1`, `"version": 2, "new": {}`, 1), "version 2: this Ballast reads version 1"},
		"no version":         {strings.Replace(good, `"version": 1,`, "", 1), "version 0"},
		"no files":           {good[:strings.Index(good, ",\n  \"files\"")] + "}", "files is missing"},
		"a path that leaves": {strings.Replace(good, `"config.json"`, `"../config.json"`, 1), "must be relative"},
		"no such digest":     {strings.Replace(good, `"git-blob-sha1:`, `"md5:`, 1), "digest algorithm"},
		"a file twice":       {strings.Replace(good, `model.safetensors`, `config.json`, 1), "twice"},
		"a negative size":    {strings.Replace(good, `"size":12`, `"size":-12`, 1), "not possible"},
		"a commit as a ref":  {strings.Replace(good, `"main"`, `"`+strings.Repeat("3", 40)+`"`, 1), "no branch or tag"},
		"no ref":             {strings.Replace(good, `"main"`, `"a..b"`, 1), "must be a branch"},
		"an array":           {"[]", "cannot unmarshal array"},
		"empty":              {"", "unexpected end"},
	} {
		d := newDirectory(t)
		d.put("good.json", textOf(t, "main", listing(t, "org/good", "2", "x")))
		d.put("bad.json", c.text)
		for range 3 {
			d.want("org/good", "main", "2")
			d.wantError("org/bad", "main", fetcher.ErrNotFound, "bad.json does not count", c.want)
		}
		if d.log.Len() != 1 || !strings.Contains(fmt.Sprint(d.log.All()[0].ContextMap()), "bad.json") || !strings.Contains(fmt.Sprint(d.log.All()[0].ContextMap()), c.want) {
			t.Errorf("%s: it logged %v", name, d.log.All())
		}
		// Of one that is no JSON nobody knows which repository it is about.
		_, err := d.commit("org/unknown", "main")
		if told := strings.Contains(fmt.Sprint(err), "bad.json"); told == json.Valid([]byte(c.text)) && c.text != "[]" {
			t.Errorf("%s: about another repository it says %v", name, err)
		}
		d.put("bad.json", good)
		d.want("org/bad", "main", "1")
	}
}

func TestWhatIsNoFileIsNotReadAndDoesNotHang(t *testing.T) {
	d := newDirectory(t)
	d.put("good.json", textOf(t, "main", listing(t, "org/good", "2", "x")))
	if err := errors.Join(syscall.Mkfifo(filepath.Join(d.dir, "fifo.json"), 0o600), os.Mkdir(filepath.Join(d.dir, "dir.json"), 0o700),
		os.Symlink("nothing", filepath.Join(d.dir, "dangling.json"))); err != nil {
		t.Fatal(err)
	}
	long, err := os.Create(filepath.Join(d.dir, "long.json"))
	if err := errors.Join(err, long.Truncate(65<<20), long.Close()); err != nil {
		t.Fatal(err)
	}
	d.want("org/good", "main", "2")
	d.wantError("org/bad", "main", fetcher.ErrNotFound, "fifo.json does not count: it is no regular file", "dir.json", "long.json does not count: it is longer than")
	d.want("org/good", "main", "2")
	if d.log.Len() != 3 {
		t.Errorf("it logged %v", d.log.All())
	}
}

func TestFilesThatContradictEachOtherDoNotCountAndAreNamed(t *testing.T) {
	d := newDirectory(t)
	d.put("one.json", textOf(t, "main", listing(t, "org/name", "1", "x")))
	d.put("two.json", textOf(t, "main", listing(t, "org/name", "2", "x")))
	d.wantError("org/name", "main", fetcher.ErrMalformed, "one.json and two.json")
	d.want("org/name", strings.Repeat("1", 40), "1") // of which they say nothing different
	d.put("two.json", textOf(t, "v2", listing(t, "org/name", "2", "x")))
	d.want("org/name", "main", "1")
	d.want("org/name", "v2", "2")

	rev := fetcher.Revision{Repo: repoOf(t, "org/name"), Commit: commitOf(t, "1")}
	d.put("three.json", textOf(t, "v1", listing(t, "org/name", "1", "x")))
	d.want("org/name", "v1", "1")
	if _, err := d.Manifest(t.Context(), rev, fetcher.Secret{}); err != nil {
		t.Errorf("two files that say the same: %v", err)
	}
	d.put("three.json", textOf(t, "v1", listing(t, "org/name", "1", "poison")))
	if _, err := d.Manifest(t.Context(), rev, fetcher.Secret{}); !errors.Is(err, fetcher.ErrMalformed) || !strings.Contains(err.Error(), "one.json and three.json") {
		t.Errorf("two files that list different content: %v", err)
	}
}

func TestADirectoryThatIsGoneIsUnreachable(t *testing.T) {
	d := newDirectory(t)
	d.put("a.json", textOf(t, "main", listing(t, "org/name", "1", "x")))
	if err := os.Rename(d.dir, d.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.commit("org/name", "main"); !fetcher.Unreachable(err) {
		t.Errorf("gone: %v", err)
	}
	if err := os.Rename(d.dir+"-away", d.dir); err != nil {
		t.Fatal(err)
	}
	d.want("org/name", "main", "1")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Resolve(over, repoOf(t, "org/name"), refOf(t, "main"), fetcher.Secret{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after its caller's end: %v", err)
	}
	for _, dir := range []string{filepath.Join(d.dir, "none"), filepath.Join(d.dir, "a.json")} {
		f := must[*manifestfile.Files](t)(manifestfile.New(manifestfile.Config{Dir: dir}))
		if _, err := f.Resolve(t.Context(), repoOf(t, "org/name"), refOf(t, "main"), fetcher.Secret{}); !fetcher.Unreachable(err) {
			t.Errorf("%q is taken for a directory: %v", dir, err)
		}
	}
	for _, cfg := range []manifestfile.Config{{}, {Dir: d.dir, Patience: -1}} {
		if _, err := manifestfile.New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// What cannot be read now may be readable later, without any change of the file's own.
func TestAFileThatBecomesReadableCounts(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	d := newDirectory(t)
	d.put("a.json", textOf(t, "main", listing(t, "org/name", "1", "x")))
	if err := os.Chmod(filepath.Join(d.dir, "a.json"), 0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d.wantError("org/name", "main", fetcher.ErrNotFound, "a.json does not count", "permission denied")
	}
	if d.log.Len() != 1 {
		t.Errorf("it logged %v", d.log.All())
	}
	if err := os.Chmod(filepath.Join(d.dir, "a.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.want("org/name", "main", "1")
}

func TestWriteRefusesWhatIsNoManifest(t *testing.T) {
	m := listing(t, "org/name", "1", "x")
	m.Files[0].Size = -1
	if err := manifestfile.Write(&bytes.Buffer{}, refOf(t, "main"), m); err == nil {
		t.Error("it was written")
	}
}

// A file is for people too, and what a ConfigMap holds (1 MiB) is told by ballast manifest.
func TestTheFormatIsReadable(t *testing.T) {
	text := textOf(t, "main", listing(t, "org/name", "1", "x"))
	for _, want := range []string{"{\n  \"version\": 1,\n  \"repo\": \"org/name\",\n  \"commit\": \"1111", "\"refs\": [\n    \"main\"\n  ],", "\"authority\": \"hub\",", "\"made\": \"20",
		"\n    {\"path\":\"config.json\",\"size\":12,\"digest\":\"git-blob-sha1:"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
