package hubcache

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/csi/mount/mounttest"
	"github.com/ballast-csi/ballast/fetcher"
)

// disk makes a file system of a kind, with a device of its own, and mounts it.
func disk(t *testing.T, kind string) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skipf("there is no mkfs.%s: apt-get install %s", kind, map[string]string{"xfs": "xfsprogs", "btrfs": "btrfs-progs", "ext4": "e2fsprogs"}[kind])
	}
	if mounttest.UserNamespace() {
		t.Skip("only root can mount a disk")
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	check(t, os.WriteFile(image, nil, 0o600))
	check(t, os.Truncate(image, 400<<20))
	for _, args := range [][]string{{mkfs, "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			if args[0] == "mount" {
				t.Skipf("%s cannot be mounted here: %s", kind, out)
			}
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { check(t, unix.Unmount(dir, 0)) })
	return dir
}

// ranged opens a range of f.
func ranged(t *testing.T, c *Cache, rev fetcher.Revision, f fetcher.File, off, n int64) *rangeReader {
	t.Helper()
	o := must[fetcher.Object](t)(c.Open(t.Context(), rev, f, fetcher.Secret{}))
	t.Cleanup(func() { o.Close() })
	r := must[io.ReadCloser](t)(o.ReadRange(t.Context(), off, n))
	t.Cleanup(func() { r.Close() })
	return r.(*rangeReader)
}

// TestAFileIsClonedWithinALocalFileSystem: what a reflink saves is seen by the space that
// is left.
func TestAFileIsClonedWithinALocalFileSystem(t *testing.T) {
	const size = 100<<20 + 12345
	for kind, reflinks := range map[string]bool{"xfs": true, "btrfs": true, "ext4": false} {
		t.Run(kind, func(t *testing.T) {
			dir := disk(t, kind)
			l := layout{t, filepath.Join(dir, "cache")}
			content := strings.Repeat("0123456789abcde\n", size/16+1)[:size]
			f := l.add("org/name", commitA, "a.safetensors", content)
			dst := must[*os.File](t)(os.Create(filepath.Join(dir, "ingest")))
			defer dst.Close()
			check(t, dst.Truncate(size))
			syncFS(t, dst)
			before := free(t, dir)
			for i := range fetcher.Pieces(size) {
				p := fetcher.PieceAt(i, size)
				r := ranged(t, l.open(), revOf(t, "org/name", commitA), f, p.Offset, p.Size)
				check(t, r.CloneTo(dst, p.Offset))
				if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("after it the reader gives %d bytes, %v", n, err)
				}
			}
			if got := must[[]byte](t)(os.ReadFile(dst.Name())); !bytes.Equal(got, []byte(content)) {
				t.Error("other bytes came")
			}
			syncFS(t, dst)
			took := before - free(t, dir)
			t.Logf("%s: a copy of %d MiB took %d MiB of the disk", kind, size>>20, took>>20)
			if reflinks != (took < size/10) {
				t.Errorf("%d bytes of the disk went into %d; reflink: %v", took, size, reflinks)
			}
			// What is written to the cache afterwards does not show in the copy.
			check(t, os.WriteFile(l.path("org/name", "blobs/"+f.Digest.Hex()), bytes.Repeat([]byte("x"), size), 0o644))
			if got := must[[]byte](t)(os.ReadFile(dst.Name())); !bytes.Equal(got, []byte(content)) {
				t.Error("the copy changed with the cache")
			}
		})
	}
}

func syncFS(t *testing.T, f *os.File) {
	t.Helper()
	check(t, unix.Syncfs(int(f.Fd())))
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var fs unix.Statfs_t
	check(t, unix.Statfs(dir, &fs))
	return int64(fs.Bfree) * fs.Bsize
}

func TestAFullDiskIsNotTheSourcesFault(t *testing.T) {
	dir := disk(t, "ext4")
	l := layout{t, filepath.Join(dir, "cache")}
	f := l.add("org/name", commitA, "a.safetensors", strings.Repeat("x", 8<<20))
	dst := must[*os.File](t)(os.Create(filepath.Join(dir, "ingest")))
	defer dst.Close()
	filler := must[*os.File](t)(os.Create(filepath.Join(dir, "filler")))
	defer filler.Close()
	for mib := make([]byte, 1<<20); ; {
		if _, err := filler.Write(mib); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	err := ranged(t, l.open(), revOf(t, "org/name", commitA), f, 0, f.Size).CloneTo(dst, 0)
	if !errors.Is(err, unix.ENOSPC) || fetcher.Transient(err) {
		t.Errorf("%v; want ENOSPC", err)
	}
}

// A copy that hangs could not be left, so none is made from where one may.
func TestNothingIsClonedBetweenFileSystemsOrFromAFileServer(t *testing.T) {
	content := strings.Repeat("x", 2<<20)
	unsupported := func(t *testing.T, c *Cache, f fetcher.File, dir string) {
		t.Helper()
		dst := must[*os.File](t)(os.Create(filepath.Join(dir, "ingest")))
		defer dst.Close()
		r := ranged(t, c, revOf(t, "org/name", commitA), f, 1, f.Size-1)
		if err := r.CloneTo(dst, 0); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v; want ErrUnsupported", err)
		}
		if info := must[os.FileInfo](t)(dst.Stat()); info.Size() != 0 {
			t.Errorf("%d bytes were written", info.Size())
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != content[1:] {
			t.Errorf("read afterwards: %d bytes, %v", len(got), err)
		}
	}
	t.Run("between two", func(t *testing.T) {
		l := inMemory(t)
		f := l.add("org/name", commitA, "a.safetensors", content)
		unsupported(t, l.open(), f, t.TempDir())
	})
	t.Run("of a file server", func(t *testing.T) {
		l := newLayout(t)
		f := l.add("org/name", commitA, "a.safetensors", content)
		unsupported(t, cacheAt(t, serveFuse(t, l.dir).dir), f, t.TempDir())
	})
	t.Run("in memory", func(t *testing.T) {
		l := inMemory(t)
		f := l.add("org/name", commitA, "a.safetensors", content)
		unsupported(t, l.open(), f, l.dir)
	})
}

func TestAFileThatShrinksWhileClonedIsUnreachable(t *testing.T) {
	dir := disk(t, "ext4")
	l := layout{t, filepath.Join(dir, "cache")}
	f := l.add("org/name", commitA, "a.safetensors", strings.Repeat("x", 2<<20))
	dst := must[*os.File](t)(os.Create(filepath.Join(dir, "ingest")))
	defer dst.Close()
	r := ranged(t, l.open(), revOf(t, "org/name", commitA), f, 0, f.Size)
	check(t, os.Truncate(l.path("org/name", "blobs/"+f.Digest.Hex()), 1<<20))
	if err := r.CloneTo(dst, 0); !fetcher.Unreachable(err) {
		t.Errorf("%v; want Unreachable", err)
	}
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("the reader goes on")
	}
}
