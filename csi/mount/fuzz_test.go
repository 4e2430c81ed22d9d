package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzOpenBeneath gives every path to a cache that has all that a path can lead out by.
func FuzzOpenBeneath(f *testing.F) {
	dir := f.TempDir()
	for _, d := range []string{"views/v1/root/sub", "empty", "a:b,c"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	for name, to := range map[string]string{"etc": "/etc", "up": "..", "self": ".", "views/in": "v1", "proc": "/proc/self/cwd"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			f.Fatal(err)
		}
	}
	m, err := New(Config{CacheDir: dir})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"views/v1/root", "empty", "", ".", "..", "/", "etc", "etc/passwd", "up/up", "self/empty", "views/in/root", "proc", "a:b,c",
		"views//v1", "views/./v1", "views/v1/", "views/../empty", "\x00", "empty\x00", strings.Repeat("a/", 3000), strings.Repeat("x", 300), "views/v1/root/../../../..",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		fd, err := m.openBeneath(path)
		if err != nil {
			if len(err.Error()) > unix.PathMax*5 { // %q makes four of a byte
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		defer unix.Close(fd)
		is, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			t.Fatal(err)
		}
		if is != filepath.Join(dir, path) || !strings.HasPrefix(is, dir+"/") {
			t.Errorf("%q is %q", path, is)
		}
	})
}

func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"/a/b", "/", "", "a", "/a/", "/a//b", "/a/..", "/../a", "/a\x00b", "//a", "/.", "/a/./b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		dir, base, err := splitTarget(target)
		if err != nil {
			return
		}
		if filepath.Join(dir, base) != target || base == "." || base == ".." || strings.ContainsAny(base, "/\x00") {
			t.Errorf("%q is %q in %q", target, base, dir)
		}
	})
}
