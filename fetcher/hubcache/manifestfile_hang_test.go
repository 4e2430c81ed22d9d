package hubcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/manifestfile"
)

// Manifest files may be on a volume as well (ballast manifest --help), and that may be as
// dead. These tests of another room are here for this one's file server.

// remoteFiles are manifest files on a file server: a.json says what org/name is.
func remoteFiles(t *testing.T, patience time.Duration) (*fuse, *manifestfile.Files) {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf(`{"version":1,"repo":"org/name","commit":%q,"refs":["main"],"files":[]}`, commitA)
	check(t, os.WriteFile(filepath.Join(dir, "a.json"), []byte(text), 0o600))
	for _, other := range []string{"b.json", "c.json"} {
		check(t, os.WriteFile(filepath.Join(dir, other), []byte("{}"), 0o600))
	}
	s := serveFuse(t, dir)
	return s, must[*manifestfile.Files](t)(manifestfile.New(manifestfile.Config{Dir: s.dir, Patience: patience}))
}

func resolveMain(ctx context.Context, t *testing.T, files *manifestfile.Files) error {
	t.Helper()
	_, err := files.Resolve(ctx, revOf(t, "org/name", commitA).Repo, must[fetcher.Ref](t)(fetcher.ParseRef("main")), fetcher.Secret{})
	return err
}

func TestManifestFilesThatHangAreLeft(t *testing.T) {
	for what, kind := range map[string]uint32{"opening the directory": fuseOpendir, "listing": fuseReaddir, "looking up": fuseLookup, "opening": fuseOpen, "reading": fuseRead} {
		t.Run(what, func(t *testing.T) {
			s, files := remoteFiles(t, 200*time.Millisecond)
			s.hang(kind)
			soon(t, func() {
				for range 3 { // the later ones wait for the first one's turn
					if err := resolveMain(t.Context(), t, files); !fetcher.Unreachable(err) || !strings.Contains(err.Error(), "did not answer in 200ms") {
						t.Error(err)
					}
				}
			})
			if n := s.hanging(); n != 1 {
				t.Errorf("%d calls hang", n)
			}
			s.let()
			if err := resolveMain(t.Context(), t, files); err != nil {
				t.Errorf("when the server is back: %v", err)
			}
		})
	}
}

func TestManifestFilesThatHangAreLeftWhenTheContextEnds(t *testing.T) {
	s, files := remoteFiles(t, time.Hour)
	check(t, resolveMain(t.Context(), t, files))
	s.hang(fuseOpen) // of a file: those that are known are not opened to resolve
	check(t, resolveMain(t.Context(), t, files))
	soon(t, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := files.Manifest(ctx, revOf(t, "org/name", commitA), fetcher.Secret{}); !errors.Is(err, context.DeadlineExceeded) || fetcher.Unreachable(err) {
			t.Error(err)
		}
		if err := resolveMain(ctx, t, files); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	s.let()
	if _, err := files.Manifest(t.Context(), revOf(t, "org/name", commitA), fetcher.Secret{}); err != nil {
		t.Errorf("when the server is back: %v", err)
	}
}

// However short the patience is, each question comes further than the one before.
func TestManifestFilesThatWereReadBeforeOneHangsAreNotReadAgain(t *testing.T) {
	s, files := remoteFiles(t, 200*time.Millisecond)
	s.hang(fuseOpen, "b.json")
	if err := resolveMain(t.Context(), t, files); !fetcher.Unreachable(err) {
		t.Fatal(err)
	}
	s.let()
	s.fail(fuseRead, unix.EIO, "a.json")
	if err := resolveMain(t.Context(), t, files); err != nil {
		t.Error(err)
	}
}
