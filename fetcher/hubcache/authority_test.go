package hubcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

func resolve(t testing.TB, c *Cache, repo, ref string) (string, error) {
	t.Helper()
	r, err := c.Resolve(t.Context(), repoOf(t, repo), refOf(t, ref), fetcher.Secret{})
	return r.Commit.String(), err
}

func wantNoRevision(t testing.TB, err error, says string) {
	t.Helper()
	if !errors.Is(err, fetcher.ErrRevisionNotFound) || fetcher.Denied(err) || fetcher.Transient(err) || !strings.Contains(err.Error(), says) {
		t.Errorf("%v; want ErrRevisionNotFound that says %q", err, says)
	}
}

func TestRefsAreRead(t *testing.T) {
	l := newLayout(t)
	l.write("org/name", "refs/main", commitA)
	l.write("org/name", "refs/by-hand", commitB+"\n")
	l.write("org/name", "refs/refs/pr/1", commitB)
	l.write("org/name", "refs/empty", "")
	l.write("org/name", "refs/half", commitA[:20])
	l.write("org/name", "refs/long", commitA+commitA+commitA+commitA)
	l.write("org/name", "refs/main.0123abcd.tmp", commitB)
	l.write("org/name", "refs/not a ref", commitB)
	l.link("org/name", "refs/away", "../../models--org--other/refs/main")
	l.write("org/other", "refs/main", commitB)
	c := l.open()
	for ref, want := range map[string]string{"main": commitA, "by-hand": commitB, "refs/pr/1": commitB} {
		if got, err := resolve(t, c, "org/name", ref); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", ref, got, err, want)
		}
	}
	for ref, says := range map[string]string{"none": "refs/none is not there", "empty": "half-written", "half": "half-written", "long": "half-written", "refs/pr": "no regular file", "away": "leads out"} {
		_, err := resolve(t, c, "org/name", ref)
		wantNoRevision(t, err, says)
		wantNoRevision(t, err, l.dir)
	}
	refs := must[map[string]fetcher.Commit](t)(c.Refs(t.Context(), repoOf(t, "org/name")))
	if len(refs) != 3 || refs["main"].String() != commitA || refs["by-hand"].String() != commitB || refs["refs/pr/1"].String() != commitB {
		t.Errorf("Refs: %v", refs)
	}
}

func TestARefBeingRewrittenIsLookedAtAgain(t *testing.T) {
	l := newLayout(t)
	l.write("org/name", "refs/main", "")
	written := make(chan struct{})
	go func() {
		defer close(written)
		time.Sleep(refPause / 2)
		l.write("org/name", "refs/main", commitA)
	}()
	if got, err := resolve(t, l.open(), "org/name", "main"); err != nil || got != commitA {
		t.Errorf("%s, %v", got, err)
	}
	<-written
}

func TestACommitIsKnownByItsSnapshotOrItsTree(t *testing.T) {
	l := newLayout(t)
	l.add("org/name", commitA, "a", "content")
	l.tree("org/name", commitB, fileOf(t, "a", "content"))
	for _, commit := range []string{commitA, commitB} {
		if got, err := resolve(t, l.open(), "org/name", commit); err != nil || got != commit {
			t.Errorf("%s, %v; want %s", got, err, commit)
		}
	}
	_, err := resolve(t, l.open(), "org/name", strings.Repeat("c", 40))
	wantNoRevision(t, err, "neither "+l.dir)
}

func TestARepoWithoutAFolderIsUnknown(t *testing.T) {
	l := newLayout(t)
	for _, err := range []error{
		func() error { _, err := resolve(t, l.open(), "org/name", "main"); return err }(),
		func() error { _, err := manifest(t, l.open(), "org/name", commitA); return err }(),
		func() error { _, err := l.open().Refs(t.Context(), repoOf(t, "org/name")); return err }(),
	} {
		if !errors.Is(err, fetcher.ErrNotFound) || fetcher.Transient(err) || !strings.Contains(err.Error(), l.dir+" has no folder models--org--name, nor has its hub/") {
			t.Error(err)
		}
	}
}

func manifest(t testing.TB, c *Cache, repo, commit string) (*fetcher.Manifest, error) {
	t.Helper()
	return c.Manifest(t.Context(), revOf(t, repo, commit), fetcher.Secret{})
}

// wantFiles wants exactly these files, OID and Xet hash included.
func wantFiles(t testing.TB, m *fetcher.Manifest, err error, want ...fetcher.File) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	same := len(m.Files) == len(want) && m.Authority == "pvc"
	for i := 0; same && i < len(want); i++ {
		same = m.Files[i] == want[i]
	}
	if !same {
		t.Errorf("%s lists %+v\nwant %+v", m.Authority, m.Files, want)
	}
}

func TestATreeSaysWhatACommitHas(t *testing.T) {
	a, b, c := fileOf(t, "a.json", "{}"), fileOf(t, "dir/b.safetensors", "weights"), fileOf(t, "not here.safetensors", "elsewhere")
	b.XetHash, c.XetHash = strings.Repeat("ab", 32), strings.Repeat("*", 64)
	l := newLayout(t)
	l.add("org/name", commitA, "a.json", "{}")
	l.add("org/name", commitA, "more", "than the tree has")
	l.write("org/name", "blobs/x.incomplete", "")
	l.tree("org/name", commitA, a, b, c)
	a.OID, b.OID, c.OID, c.XetHash = a.Digest.Hex(), strings.Repeat("1", 40), strings.Repeat("1", 40), ""
	m, err := manifest(t, l.open(), "org/name", commitA)
	wantFiles(t, m, err, a, b, c)
}

func TestATreeOfAnotherKindIsIgnored(t *testing.T) {
	l := newLayout(t)
	f := l.add("org/name", commitA, "a", "content")
	l.settle()
	entry := `{"size":1,"blob_id":"` + commitA + `"}`
	for _, text := range []string{
		"", "{", "[]", "null", `"text"`, `{"files":{}}`, `{"format_version":1}`, `{"files":{},"format_version":2}`, `{"files":{},"format_version":"1"}`,
		`{"files":[],"format_version":1}`, `{"files":{"../x":` + entry + `},"format_version":2}`, `{"files":{"a":{}},"format_version":1}`,
		`{"files":{"a":{"size":"1","blob_id":""}},"format_version":1}`, `{"files":{"a":` + entry + `},"format_version":1} x`, `{"files":{"a":` + entry + `},"format_ver`,
	} {
		l.write("org/name", "trees/"+commitA+".json", text)
		m, err := manifest(t, l.open(), "org/name", commitA)
		if wantFiles(t, m, err, f); t.Failed() {
			t.Fatalf("with the tree %q", text)
		}
	}
}

func TestAHostileTreeIsRefused(t *testing.T) {
	l := newLayout(t)
	l.add("org/name", commitA, "a", "content")
	l.settle()
	entry, lfs := `{"size":1,"blob_id":"`+commitA+`"}`, strings.Repeat("1", 64)
	for what, files := range map[string]string{
		"path that leaves":      `"../x":` + entry,
		"absolute path":         `"/x":` + entry,
		"path of git's":         `".git/config":` + entry,
		"no digest":             `"a":{"size":1,"blob_id":"xyz"}`,
		"bad LFS digest":        `"a":{"size":1,"blob_id":"` + commitA + `","lfs_sha256":"` + lfs[:10] + `"}`,
		"two sizes":             `"a":{"size":1,"blob_id":"` + commitA + `","lfs_sha256":"` + lfs + `","lfs_size":2}`,
		"negative size":         `"a":{"size":-1,"blob_id":"` + commitA + `"}`,
		"huge size":             `"a":{"size":` + fmt.Sprint(int64(1)<<60) + `,"blob_id":"` + commitA + `"}`,
		"a path twice":          `"a":` + entry + `,"a":` + entry,
		"a file and a folder":   `"a":` + entry + `,"a/b":` + entry,
		"a digest of two sizes": `"a":` + entry + `,"b":{"size":2,"blob_id":"` + commitA + `"}`,
		"an endless name":       `"` + strings.Repeat("x", 3<<20) + `":` + entry,
		"an endless value":      `"a":{"size":1,"blob_id":"` + strings.Repeat("x", 3<<20) + `"}`,
	} {
		l.write("org/name", "trees/"+commitA+".json", `{"files":{`+files+`},"format_version":1}`)
		if _, err := manifest(t, l.open(), "org/name", commitA); !errors.Is(err, fetcher.ErrMalformed) || fetcher.Transient(err) || len(err.Error()) > 2000 {
			t.Errorf("%s: %.300v", what, err)
		}
	}
}

// endless is a tree that does not end.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	if e.n++; e.n == 1 {
		return copy(p, `{"files":{`), nil
	}
	return copy(p, fmt.Sprintf(`"%d":{"size":1,"blob_id":"%s"},`, e.n, commitA)), nil
}

func TestTreesAreReadInBounds(t *testing.T) {
	e := &endless{}
	if files, err := parseTree(e, 10_000); !errors.Is(err, fetcher.ErrMalformed) || files != nil || e.n > 20_000 {
		t.Errorf("after %d entries: %v", e.n, err)
	}
	l := newLayout(t)
	l.write("org/name", "trees/"+commitA+".json", "")
	check(t, os.Truncate(l.path("org/name", "trees/"+commitA+".json"), 1<<30))
	if _, err := manifest(t, l.open(), "org/name", commitA); !errors.Is(err, fetcher.ErrMalformed) {
		t.Error(err)
	}
}

func TestWithoutATreeTheContentSaysWhatACommitHas(t *testing.T) {
	l := newLayout(t)
	a := l.add("org/name", commitA, "a.json", "{}")
	b := l.add("org/name", commitA, "dir/er/b.safetensors", "weights")
	l.write("org/name", "snapshots/"+commitA+"/plain.json", "plain")
	p := fetcher.File{Path: pathOf(t, "plain.json"), Size: 5, Digest: digestBy(t, fetcher.SHA256, "plain")}
	l.write("org/name", "elsewhere", "a link to no blob")
	l.link("org/name", "snapshots/"+commitA+"/q", "../../elsewhere")
	q := fetcher.File{Path: pathOf(t, "q"), Size: 17, Digest: digestBy(t, fetcher.SHA256, "a link to no blob")}
	l.write("org/name", "blobs/an-etag-of-a-mirror-3", "odd")
	l.link("org/name", "snapshots/"+commitA+"/r", "../../blobs/an-etag-of-a-mirror-3")
	r := fetcher.File{Path: pathOf(t, "r"), Size: 3, Digest: digestBy(t, fetcher.SHA256, "odd")}
	m, err := manifest(t, l.settle().open(), "org/name", commitA)
	wantFiles(t, m, err, a, b, p, q, r)
	_, err = manifest(t, l.open(), "org/name", commitB)
	wantNoRevision(t, err, "neither "+l.dir)
}

func TestAPartialSnapshotWithoutATreeIsWaitedFor(t *testing.T) {
	index := `{"weight_map":{"x":"one.safetensors","y":"two.safetensors"}}`
	for what, c := range map[string]struct {
		make func(l layout)
		says string // "": it is whole
	}{
		"a download":                   {func(l layout) { l.settle().write("org/name", "blobs/"+commitB+".0123abcd.incomplete", "") }, "is being downloaded"},
		"a download before its dir":    {func(l layout) { l.settle().write("org/name", "blobs/"+commitB+".incomplete", "") }, "is being downloaded"},
		"a download that was given up": {func(l layout) { l.write("org/name", "blobs/"+commitB+".incomplete", ""); l.settle() }, "finish the download, or delete that file"},
		"one that was done another way": {func(l layout) {
			f := l.add("org/name", commitA, "b", "b")
			l.write("org/name", "blobs/"+f.Digest.Hex()+".0123abcd.incomplete", "")
			l.settle()
		}, ""},
		"a missing shard": {func(l layout) {
			l.add("org/name", commitA, "one.safetensors", "1")
			l.add("org/name", commitA, indexFile, index)
			l.settle()
		}, `lists "two.safetensors", which is not there`},
		"all shards": {func(l layout) {
			l.add("org/name", commitA, "one.safetensors", "1")
			l.add("org/name", commitA, "two.safetensors", "2")
			l.add("org/name", commitA, indexFile, index)
			l.settle()
		}, ""},
		"an index that is none": {func(l layout) { l.add("org/name", commitA, indexFile, "?"); l.settle() }, ""},
		"a link to nothing":     {func(l layout) { l.link("org/name", "snapshots/"+commitA+"/b", "../../blobs/"+commitB); l.settle() }, "is a link to nothing"},
		"a file that just came": {func(l layout) { l.settle().add("org/name", commitA, "b", "b") }, "more may follow"},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLayout(t)
			l.add("org/name", commitA, "a", "content")
			c.make(l)
			_, err := manifest(t, l.open(), "org/name", commitA)
			if c.says == "" && err != nil || c.says != "" && (!fetcher.Unreachable(err) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v; want it to say %q", err, c.says)
			}
		})
	}
	l := newLayout(t)
	l.write("org/name", "snapshots/"+commitB+"/a", "")
	l.write("org/name", "blobs/"+commitB+".incomplete", "")
	if _, err := manifest(t, l.open(), "org/name", commitA); !fetcher.Unreachable(err) {
		t.Errorf("before there is a snapshot: %v", err)
	}
}

func TestAHostileSnapshotIsRefused(t *testing.T) {
	for what, make := range map[string]func(l layout, at string){
		"link that leads out": func(l layout, at string) { l.link("org/name", at, "/etc/passwd") },
		"link to another repo": func(l layout, at string) {
			l.write("org/other", "blobs/"+commitB, "")
			l.link("org/name", at, "../../../models--org--other/blobs/"+commitB)
		},
		"link to a directory":   func(l layout, at string) { l.link("org/name", at, "../../blobs") },
		"loop":                  func(l layout, at string) { l.link("org/name", at, "odd") },
		"FIFO":                  func(l layout, at string) { check(l.t, syscall.Mkfifo(l.path("org/name", at), 0o644)) },
		"name of git's":         func(l layout, at string) { l.write("org/name", "snapshots/"+commitA+"/.git/config", "") },
		"name that is not text": func(l layout, at string) { l.write("org/name", at+"\xff", "") },
		"bottomless directory":  func(l layout, at string) { l.write("org/name", at+strings.Repeat("/d", 70)+"/f", "") },
	} {
		t.Run(what, func(t *testing.T) {
			l := newLayout(t)
			l.add("org/name", commitA, "a", "content")
			make(l, "snapshots/"+commitA+"/odd")
			if _, err := manifest(t, l.open(), "org/name", commitA); !errors.Is(err, fetcher.ErrMalformed) || fetcher.Transient(err) {
				t.Error(err)
			}
		})
	}
}

func TestAListingIsBounded(t *testing.T) {
	l := newLayout(t)
	for i := range 1000 {
		l.write("org/name", fmt.Sprintf("refs/%d/%d", i/300, i), commitA)
	}
	f := must[*folder](t)(l.open().openFolder(repoOf(t, "org/name")))
	defer f.close()
	for limit, want := range map[int]bool{1004: true, 1003: false} {
		seen := 0
		lister := lister{cache: l.open(), folder: f, ctx: t.Context(), maxEntries: limit}
		err := lister.walk("refs", func(entry) error { seen++; return nil })
		if (err == nil) != want || seen != limit || err != nil && !errors.Is(err, fetcher.ErrMalformed) {
			t.Errorf("%d entries of at most %d: %v", seen, limit, err)
		}
	}
}

// A plain file is read once as long as it stays as it is, by however many ask.
func TestAPlainFileIsHashedOnce(t *testing.T) {
	l := newLayout(t)
	l.write("org/name", "snapshots/"+commitA+"/a", strings.Repeat("x", 3<<20))
	s := serveFuse(t, l.settle().dir)
	c := cacheAt(t, s.dir)
	first := must[*fetcher.Manifest](t)(manifest(t, c, "org/name", commitA))
	reads := s.count(fuseRead)
	m, err := manifest(t, c, "org/name", commitA)
	wantFiles(t, m, err, first.Files...)
	if n := s.count(fuseRead); n != reads || reads == 0 {
		t.Errorf("%d reads for the first, %d more for the second", reads, n-reads)
	}
	l.write("org/name", "snapshots/"+commitA+"/a", strings.Repeat("y", 3<<20))
	m, err = manifest(t, c, "org/name", commitA)
	wantFiles(t, m, err, fetcher.File{Path: pathOf(t, "a"), Size: 3 << 20, Digest: digestBy(t, fetcher.SHA256, strings.Repeat("y", 3<<20))})
}

// Whoever asks may not wait as long as a large file takes: the next one goes on from there.
func TestHashingGoesOnWhereItEnded(t *testing.T) {
	l := newLayout(t)
	text := strings.Repeat("0123456789abcdef", 1<<20) // 16 MiB
	l.write("org/name", "snapshots/"+commitA+"/a", text)
	s := serveFuse(t, l.settle().dir)
	c := cacheAt(t, s.dir)
	f := must[*folder](t)(c.openFolder(repoOf(t, "org/name")))
	defer f.close()
	file := must[*content](t)(f.open("snapshots/" + commitA + "/a"))
	defer file.Close()
	ctx, cancel := context.WithCancel(t.Context())
	sum := c.sums.of(idOf(&file.stat))
	reader := &object{calls: c.calls, file: file.File, size: file.stat.Size}
	go func() {
		for s.count(fuseRead) < 10 { // each of them reads 128 KiB at most
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if err := sum.feed(ctx, reader); !errors.Is(err, context.Canceled) || sum.hashed < 1<<20 || sum.hashed == reader.size {
		t.Fatalf("%d of %d bytes were hashed, and then %v", sum.hashed, len(text), err)
	}
	d, err := c.digest(t.Context(), "again", file)
	if err != nil || d != digestBy(t, fetcher.SHA256, text) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestAFileServerInTroubleIsNoVerdictOnARepo(t *testing.T) {
	for what, kind := range map[string]uint32{"looking up": fuseLookup, "listing": fuseReaddir, "opening": fuseOpen, "following": fuseReadlink} {
		r := newRemote(t, time.Minute)
		r.fail(kind, unix.EIO)
		if _, err := manifest(t, r.cache, "org/name", commitA); !fetcher.Unreachable(err) || fetcher.Denied(err) || errors.Is(err, fetcher.ErrRevisionNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
