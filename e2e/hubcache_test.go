package e2e

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hubcache"
)

// writesTrees and disablesSymlinks are what a release of huggingface_hub does.
func writesTrees(version string) bool      { return version != "0.30.2" && version != "1.18.0" }
func disablesSymlinks(version string) bool { return version != "0.30.2" }

// downloaded is a cache that the real client fills.
type downloaded struct {
	version string
	url     string
	dir     string // HF_HUB_CACHE
	env     []string
}

// command is testdata/cache.py with a release of the client.
func (d downloaded) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python(t, d.version), append([]string{"-W", "ignore", "testdata/cache.py"}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "HF_HUB_CACHE=" + d.dir, "HF_ENDPOINT=" + d.url,
		"HF_HUB_DISABLE_PROGRESS_BARS=1", "HF_HUB_DISABLE_TELEMETRY=1", "HF_HUB_DISABLE_UPDATE_CHECK=1", "HF_HUB_DISABLE_XET=1", "PYTHONDONTWRITEBYTECODE=1"}, d.env...)
	return cmd
}

func (d downloaded) fill(t *testing.T, args ...string) {
	t.Helper()
	if out, err := d.command(t, args...).CombinedOutput(); err != nil {
		t.Fatalf("huggingface_hub %s: %v\n%s", d.version, err, out)
	}
}

// rest makes it an hour since anything was put into the cache.
func (d downloaded) rest(t *testing.T) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = os.Chtimes(path, old, old)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func (d downloaded) cache(t *testing.T) *hubcache.Cache {
	t.Helper()
	return must(hubcache.New(hubcache.Config{Dir: d.dir, Log: quiet(t)}))(t)
}

// readCached reads f through the Source.
func readCached(t *testing.T, c *hubcache.Cache, rev fetcher.Revision, f fetcher.File) ([]byte, error) {
	t.Helper()
	o, err := c.Open(t.Context(), rev, f, fetcher.Secret{})
	if err != nil || f.Size == 0 {
		return nil, err
	}
	defer o.Close()
	r, err := o.ReadRange(t.Context(), 0, f.Size)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// published is a repository of the Hub: an old commit and main.
type published struct {
	repo      fetcher.Repo
	manifests map[string]*fetcher.Manifest // "main" and "old", as the Hub lists them
	files     map[string]map[string][]byte // likewise
}

// publishTwice makes both.
func publishTwice(t *testing.T, h *hub.Hub, name string) published {
	t.Helper()
	k := kinds[name]
	p := published{must(fetcher.ParseRepo(name))(t), map[string]*fetcher.Manifest{}, map[string]map[string][]byte{}}
	for _, what := range []string{"old", "main"} {
		files := modelFiles()
		files["README.md"] = []byte(what)
		rev := fetcher.Revision{Repo: p.repo, Commit: upload(t, h, k.Repo, k.Type, files)}
		p.files[what] = files
		p.manifests[what] = must(hubClient(t, h.URL()).Manifest(t.Context(), rev, fetcher.Secret{}))(t)
	}
	return p
}

// wantWhole wants every file of both commits from the Source, and both from the
// Authority. A plain file is hashed where there is no tree.
func (p published) wantWhole(t *testing.T, c *hubcache.Cache, hashed bool) {
	t.Helper()
	main := must(c.Resolve(t.Context(), p.repo, must(fetcher.ParseRef("main"))(t), fetcher.Secret{}))(t)
	refs := must(c.Refs(t.Context(), p.repo))(t)
	if want := p.manifests["main"].Revision.Commit; main.Commit != want || len(refs) != 1 || refs["main"] != want {
		t.Errorf("main is %s, refs %v; want %s", main.Commit, refs, want)
	}
	for what, want := range p.manifests {
		got := must(c.Manifest(t.Context(), want.Revision, fetcher.Secret{}))(t)
		if len(got.Files) != len(want.Files) {
			t.Errorf("%s: %d files are listed; want %d", want.Revision, len(got.Files), len(want.Files))
			continue
		}
		for i, f := range want.Files {
			content := p.files[what][f.Path.String()]
			g := got.Files[i]
			if g.Path != f.Path || g.Size != f.Size || !hashed && g.Digest != f.Digest || hashed && g.Digest.Hex() != sha256Of(content) {
				t.Errorf("%s: %+v is listed; want %+v", want.Revision, g, f)
			}
			if b, err := readCached(t, c, want.Revision, f); err != nil || !bytes.Equal(b, content) {
				t.Errorf("%s of %s: %d bytes, %v; want %d", f.Path, want.Revision, len(b), err, len(content))
			}
		}
	}
}

// TestCachesOfTheRealClientsAreRead: in both layouts, of models and of data sets.
func TestCachesOfTheRealClientsAreRead(t *testing.T) {
	h := startHub(t)
	for name, k := range kinds {
		p := publishTwice(t, h, name)
		for _, version := range clientVersions {
			for _, plain := range []bool{false, true} {
				what, env := " symlinks", []string(nil)
				if plain {
					what, env = " plain files", []string{"HF_HUB_DISABLE_SYMLINKS=1"}
				}
				if plain && !disablesSymlinks(version) || plain && k.Type == "dataset" {
					continue
				}
				t.Run(version+" "+k.Type+what, func(t *testing.T) {
					d := downloaded{version, h.URL(), t.TempDir(), env}
					d.fill(t, k.Repo, k.Type, "main", p.manifests["old"].Revision.Commit.String())
					if links := countLinks(t, d.dir); plain != (links == 0) {
						t.Errorf("%d links", links)
					}
					d.rest(t)
					p.wantWhole(t, d.cache(t), plain && !writesTrees(version))
				})
			}
		}
	}
}

func countLinks(t *testing.T, dir string) (n int) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeSymlink != 0 {
			n++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestACacheIsReadWhileTheRealClientFillsIt: what is read is right or absent, also after
// the client was killed in the middle; then another download makes it whole.
func TestACacheIsReadWhileTheRealClientFillsIt(t *testing.T) {
	h := startHub(t)
	k := kinds["org/tiny"]
	p := publishTwice(t, h, "org/tiny")
	old := p.manifests["old"]
	for _, version := range clientVersions {
		t.Run(version, func(t *testing.T) {
			d := downloaded{version, h.URL(), t.TempDir(), nil}
			c := d.cache(t)
			// The small files come in no time; the large one takes 10 s, and is cut off.
			h.Throttle(k.Repo, 3<<20)
			defer h.Throttle(k.Repo, 0)
			cmd := d.command(t, k.Repo, k.Type, "main", old.Revision.Commit.String())
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			seen := p.watch(t, c, d)
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait()
			t.Logf("killed when %d of %d files were there", seen, len(p.manifests["main"].Files))
			if now := p.present(t, c); now == 0 || now == len(p.manifests["main"].Files) {
				t.Fatalf("%d files are there: the client was not killed in the middle", now)
			}
			m, err := c.Manifest(t.Context(), p.manifests["main"].Revision, fetcher.Secret{})
			switch {
			case writesTrees(version) && (err != nil || len(m.Files) != len(p.manifests["main"].Files)):
				t.Errorf("there is a tree, and the Authority says %v", err)
			case !writesTrees(version) && (!fetcher.Unreachable(err) || !strings.Contains(err.Error(), "is being downloaded")):
				t.Errorf("half of a snapshot: %v", err)
			}
			h.Throttle(k.Repo, 0)
			d.fill(t, k.Repo, k.Type, "main", old.Revision.Commit.String())
			d.rest(t)
			forget(t, d.dir)
			p.wantWhole(t, c, false)
		})
	}
}

// forget makes what was killed a thing of long ago.
func forget(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*", "blobs", "*.incomplete"))
	for _, file := range left {
		err = errors.Join(err, os.Chtimes(file, time.Now().Add(-time.Hour), time.Now().Add(-time.Hour)))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d blobs were left half-written", len(left))
}

// watch reads main until some of it is there, and more is on its way.
func (p published) watch(t *testing.T, c *hubcache.Cache, d downloaded) (present int) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(20 * time.Millisecond) {
		present = p.present(t, c)
		half, err := filepath.Glob(filepath.Join(d.dir, "*", "blobs", "*.incomplete"))
		if err != nil {
			t.Fatal(err)
		}
		if present >= 10 && len(half) > 0 {
			return present
		}
	}
	t.Errorf("after 30 s %d files are there", present)
	return present
}

// present counts main's files, and wants the others absent.
func (p published) present(t *testing.T, c *hubcache.Cache) (n int) {
	t.Helper()
	m := p.manifests["main"]
	for _, f := range m.Files {
		b, err := readCached(t, c, m.Revision, f)
		switch want := p.files["main"][f.Path.String()]; {
		case err == nil && bytes.Equal(b, want):
			n++
		case err == nil:
			t.Errorf("%s: other bytes came", f.Path)
		case !errors.Is(err, fetcher.ErrAbsent):
			t.Errorf("%s: %v", f.Path, err)
		}
	}
	return n
}
