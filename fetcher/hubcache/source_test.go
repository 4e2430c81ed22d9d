package hubcache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

// read reads all of f through the Source.
func read(t testing.TB, c *Cache, rev fetcher.Revision, f fetcher.File) (string, error) {
	t.Helper()
	o, err := c.Open(t.Context(), rev, f, fetcher.Secret{})
	if err != nil {
		return "", err
	}
	defer o.Close()
	if f.Size == 0 {
		return "", nil
	}
	r, err := o.ReadRange(t.Context(), 0, f.Size)
	if err != nil {
		return "", err
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	return string(content), err
}

func wantContent(t testing.TB, c *Cache, rev fetcher.Revision, f fetcher.File, want string) {
	t.Helper()
	if got, err := read(t, c, rev, f); err != nil || got != want {
		t.Errorf("%s: read %d bytes, %v; want the %d of it", f.Path, len(got), err, len(want))
	}
}

// wantAbsent wants an ErrAbsent whose text has every one of says.
func wantAbsent(t testing.TB, err error, says ...string) {
	t.Helper()
	if !errors.Is(err, fetcher.ErrAbsent) || fetcher.Transient(err) {
		t.Errorf("%v; want ErrAbsent", err)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

func TestFilesOfBothLayoutsAreRead(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 200_000) // more than one buffer
	for _, repo := range []string{"org/name", "gpt2", "datasets/org/name"} {
		l, rev := newLayout(t), revOf(t, repo, commitA)
		for path, content := range map[string]string{"config.json": "{}", "deep/er/w.safetensors": big, "empty": ""} {
			linked := l.add(repo, commitA, path, content)
			l.write(repo, "snapshots/"+commitA+"/plain/"+path, content)
			plain := fileOf(t, "plain/"+path, content) // its blob is there too
			wantContent(t, l.open(), rev, linked, content)
			wantContent(t, l.open(), rev, plain, content)
		}
		l.write(repo, "snapshots/"+commitA+"/only-plain.safetensors", "plain")
		wantContent(t, l.open(), rev, fileOf(t, "only-plain.safetensors", "plain"), "plain")
	}
}

func TestAnHFHomeIsACacheToo(t *testing.T) {
	home := t.TempDir()
	l := layout{t, filepath.Join(home, "hub")}
	f := l.add("org/name", commitA, "a", "content")
	wantContent(t, cacheAt(t, home), revOf(t, "org/name", commitA), f, "content")

	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(home, link); err != nil {
		t.Fatal(err)
	}
	wantContent(t, cacheAt(t, link), revOf(t, "org/name", commitA), f, "content")
}

func TestABlobOfAnotherCommitIsUsed(t *testing.T) {
	l := newLayout(t)
	f := l.add("org/name", commitA, "a", "content")
	f.Path = pathOf(t, "moved/b")
	wantContent(t, l.open(), revOf(t, "org/name", commitB), f, "content")
}

func TestABlobOfAnotherRepoIsNotUsed(t *testing.T) {
	l := newLayout(t)
	f := l.add("org/secret", commitA, "a", "content")
	l.add("org/claims", commitA, "b", "other")
	_, err := read(t, l.open(), revOf(t, "org/claims", commitA), f)
	wantAbsent(t, err, "models--org--claims/snapshots/"+commitA+"/a is not there")
	_, err = read(t, l.open(), revOf(t, "datasets/org/secret", commitA), f)
	wantAbsent(t, err, "has no folder datasets--org--secret")
}

// A link must not lead to what is not the Repo's, whoever made it.
func TestLinksStayInTheFolderOfTheirRepo(t *testing.T) {
	secret := "of another"
	for what, make := range map[string]func(l layout, f fetcher.File){
		"absolute": func(l layout, f fetcher.File) {
			l.link("org/name", "blobs/"+f.Digest.Hex(), l.path("org/other", "blobs/"+f.Digest.Hex()))
		},
		"upward": func(l layout, f fetcher.File) {
			l.link("org/name", "snapshots/"+commitA+"/a", "../../../models--org--other/blobs/"+f.Digest.Hex())
		},
		"blobs": func(l layout, f fetcher.File) {
			l.link("org/name", "blobs", "../models--org--other/blobs")
		},
		"snapshots": func(l layout, f fetcher.File) {
			l.link("org/name", "snapshots", "../models--org--other/snapshots")
		},
		"the snapshot": func(l layout, f fetcher.File) {
			l.link("org/name", "snapshots/"+commitA, "../../models--org--other/snapshots/"+commitA)
		},
		"the folder": func(l layout, f fetcher.File) {
			l.link("org/name", "", "models--org--other")
		},
		"a process": func(l layout, f fetcher.File) {
			opened, err := os.Open(l.path("org/other", "blobs/"+f.Digest.Hex()))
			if err != nil {
				l.t.Fatal(err)
			}
			l.t.Cleanup(func() { opened.Close() })
			l.link("org/name", "blobs/"+f.Digest.Hex(), fmt.Sprintf("/proc/self/fd/%d", opened.Fd()))
		},
		"there and back": func(l layout, f fetcher.File) {
			l.write("org/name", "blobs/real", secret)
			l.link("org/name", "blobs/"+f.Digest.Hex(), "../../models--org--name/blobs/real")
		},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLayout(t)
			f := l.add("org/other", commitA, "a", secret)
			make(l, f)
			_, err := read(t, l.open(), revOf(t, "org/name", commitA), f)
			wantAbsent(t, err)
			if m, err := l.settle().open().Manifest(t.Context(), revOf(t, "org/name", commitA), fetcher.Secret{}); err == nil {
				t.Errorf("the Authority lists %v", m.Files)
			}
		})
	}
}

func TestTheCacheOfAnHFHomeStaysInIt(t *testing.T) {
	l := newLayout(t)
	f := l.add("org/name", commitA, "a", "content")
	home := t.TempDir()
	if err := os.Symlink(l.dir, filepath.Join(home, "hub")); err != nil {
		t.Fatal(err)
	}
	_, err := read(t, cacheAt(t, home), revOf(t, "org/name", commitA), f)
	wantAbsent(t, err)
}

func TestLinksWithinTheFolderAreFollowed(t *testing.T) {
	l := newLayout(t)
	f := fileOf(t, "dir/a.safetensors", "content")
	l.write("org/name", "elsewhere/a.safetensors", "content")
	l.link("org/name", "snapshots/"+commitA+"/dir", "../../elsewhere")
	wantContent(t, l.open(), revOf(t, "org/name", commitA), f, "content")
}

func TestWhatIsNotWholeIsAbsent(t *testing.T) {
	f := fileOf(t, "a.safetensors", "content")
	blob, file := "blobs/"+f.Digest.Hex(), "snapshots/"+commitA+"/a.safetensors"
	for what, c := range map[string]struct {
		make func(l layout)
		says string
	}{
		"nothing":                 {func(l layout) { l.path("org/name", "x") }, "is not there"},
		"short":                   {func(l layout) { l.write("org/name", blob, "conte") }, "has 5 bytes and not 7"},
		"long":                    {func(l layout) { l.write("org/name", file, "content and more") }, "has 16 bytes and not 7"},
		"before 1.18":             {func(l layout) { l.write("org/name", blob+".incomplete", "content") }, "is being downloaded"},
		"since 1.18":              {func(l layout) { l.write("org/name", blob+".0123abcd.incomplete", "content") }, "is being downloaded"},
		"a link to nothing":       {func(l layout) { l.link("org/name", file, "../../"+blob) }, "is a link to nothing"},
		"another's, arrives":      {func(l layout) { l.write("org/name", "blobs/"+commitA+".incomplete", "") }, "is not there"},
		"a loop":                  {func(l layout) { l.link("org/name", blob, f.Digest.Hex()) }, "is a loop of links"},
		"a directory":             {func(l layout) { l.path("org/name", blob+"/x") }, "is no regular file"},
		"a file as its directory": {func(l layout) { l.write("org/name", "snapshots", "") }, "is not what it should be"},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLayout(t)
			c.make(l)
			_, err := read(t, l.open(), revOf(t, "org/name", commitA), f)
			wantAbsent(t, err, c.says)
		})
	}
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	f := fileOf(t, "a", "")
	for what, mode := range map[string]uint32{"FIFO": syscall.S_IFIFO, "socket": syscall.S_IFSOCK} {
		t.Run(what, func(t *testing.T) {
			l := newLayout(t)
			if err := syscall.Mknod(l.path("org/name", "blobs/"+f.Digest.Hex()), mode|0o644, 0); err != nil {
				t.Fatal(err)
			}
			_, err := read(t, l.open(), revOf(t, "org/name", commitA), f)
			wantAbsent(t, err)
		})
	}
}

func TestACacheThatIsNotMountedIsUnreachable(t *testing.T) {
	c := cacheAt(t, filepath.Join(t.TempDir(), "none"))
	_, err := read(t, c, revOf(t, "org/name", commitA), fileOf(t, "a", "content"))
	if !fetcher.Unreachable(err) || errors.Is(err, fetcher.ErrAbsent) {
		t.Error(err)
	}
	if _, err := c.Resolve(t.Context(), repoOf(t, "org/name"), refOf(t, "main"), fetcher.Secret{}); !fetcher.Unreachable(err) || fetcher.Denied(err) {
		t.Error(err)
	}
}

func TestRangesAreExact(t *testing.T) {
	l := newLayout(t)
	content := strings.Repeat("0123456789", 300_000)
	f := l.add("org/name", commitA, "a.safetensors", content)
	o := must[fetcher.Object](t)(l.open().Open(t.Context(), revOf(t, "org/name", commitA), f, fetcher.Secret{}))
	defer o.Close()
	for _, c := range [][2]int64{{0, 1}, {0, f.Size}, {f.Size - 1, 1}, {1<<20 - 1, 2}, {5, 1<<20 + 7}} {
		r := must[io.ReadCloser](t)(o.ReadRange(t.Context(), c[0], c[1]))
		got, err := io.ReadAll(r)
		if err != nil || string(got) != content[c[0]:c[0]+c[1]] {
			t.Errorf("bytes %d+%d: %d came, %v", c[0], c[1], len(got), err)
		}
		r.Close()
	}
	for _, c := range [][2]int64{{0, 0}, {-1, 1}, {f.Size, 1}, {1, f.Size}, {1 << 62, 1 << 62}} {
		if _, err := o.ReadRange(t.Context(), c[0], c[1]); err == nil || fetcher.Transient(err) {
			t.Errorf("bytes %d+%d: %v; want a permanent error", c[0], c[1], err)
		}
	}
}

func TestAFileThatShrinksIsUnreachable(t *testing.T) {
	l := newLayout(t)
	f := l.add("org/name", commitA, "a.safetensors", strings.Repeat("x", 3<<20))
	o := must[fetcher.Object](t)(l.open().Open(t.Context(), revOf(t, "org/name", commitA), f, fetcher.Secret{}))
	defer o.Close()
	r := must[io.ReadCloser](t)(o.ReadRange(t.Context(), 0, f.Size))
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(l.path("org/name", "blobs/"+f.Digest.Hex()), 1<<20+5); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, r)
	if !fetcher.Unreachable(err) || n > 5 {
		t.Errorf("%d bytes more, %v; want no more than 5, Unreachable", n, err)
	}
}
