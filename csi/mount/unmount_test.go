package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnmountRemovesNothingButAnEmptyDirectory(t *testing.T) {
	c := newCache(t)
	precious := t.TempDir()
	parent := filepath.Dir(c.target)
	at := func(p string) string { return filepath.Join(parent, p) }
	must(t, os.WriteFile(filepath.Join(precious, "file"), nil, 0o600))
	must(t, os.Symlink(precious, at("link")))
	must(t, os.WriteFile(at("file"), nil, 0o600))
	must(t, os.MkdirAll(at("full/x"), 0o700))
	must(t, os.Mkdir(at("empty"), 0o700))

	for _, target := range []string{at("empty"), at("empty"), at("never/was")} {
		if err := c.Unmount(target); err != nil {
			t.Errorf("Unmount(%s) = %v", target, err)
		}
	}
	for _, target := range []string{at("link"), at("file"), at("full"), "relative", "/", parent + "/x/.."} {
		err := c.Unmount(target)
		if err == nil || !strings.Contains(err.Error(), target) {
			t.Errorf("Unmount(%q) = %v, want an error that names it", target, err)
		}
	}
	for _, kept := range []string{at("link"), at("file"), at("full/x"), filepath.Join(precious, "file")} {
		if _, err := os.Lstat(kept); err != nil {
			t.Errorf("Unmount removed it: %v", err)
		}
	}
}

func TestUnmountDoesNotUnmountThroughALink(t *testing.T) {
	c := newCache(t)
	must(t, c.Mount(c.spec()))
	link := filepath.Join(filepath.Dir(c.target), "link")
	must(t, os.Symlink(c.target, link))
	if err := c.Unmount(link); err == nil {
		t.Error("Unmount of a link to a mount succeeded")
	}
	if _, found, err := c.Lookup(c.target); !found || err != nil {
		t.Errorf("the mount behind the link: %v, %v", found, err)
	}
}

func TestUnmountOfAMountInUseSaysSo(t *testing.T) {
	c := newCache(t)
	must(t, c.Mount(c.spec()))
	f, err := os.Open(filepath.Join(c.target, "config.json"))
	must(t, err)
	if err := c.Unmount(c.target); !errors.Is(err, unix.EBUSY) {
		t.Errorf("Unmount with a file open = %v, want EBUSY", err)
	}
	must(t, f.Close())
	must(t, c.Unmount(c.target))
}
