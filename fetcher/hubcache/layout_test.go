package hubcache

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// layout makes a cache by hand.
type layout struct {
	t   testing.TB
	dir string // an HF_HUB_CACHE
}

func newLayout(t testing.TB) layout { return layout{t, t.TempDir()} }

// inMemory makes a layout on a file system in memory: what runs here writes gigabytes.
func inMemory(t *testing.T) layout {
	t.Helper()
	l := newLayout(t)
	if err := unix.Mount("ballast-test", l.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(l.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return l
}

// path is the whole path of name in the folder of repo; its directory is there.
func (l layout) path(repo, name string) string {
	l.t.Helper()
	p := filepath.Join(l.dir, folderName(repoOf(l.t, repo)), name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		l.t.Fatal(err)
	}
	return p
}

// write writes a file of repo's folder.
func (l layout) write(repo, name, content string) {
	l.t.Helper()
	if err := os.WriteFile(l.path(repo, name), []byte(content), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// link makes a link in repo's folder.
func (l layout) link(repo, name, target string) {
	l.t.Helper()
	if err := os.Symlink(target, l.path(repo, name)); err != nil {
		l.t.Fatal(err)
	}
}

// add adds a file as huggingface_hub does: a blob, and a link to it.
func (l layout) add(repo, commit, path, content string) fetcher.File {
	l.t.Helper()
	f := fileOf(l.t, path, content)
	l.write(repo, "blobs/"+f.Digest.Hex(), content)
	l.link(repo, "snapshots/"+commit+"/"+path, strings.Repeat("../", strings.Count(path, "/")+2)+"blobs/"+f.Digest.Hex())
	return f
}

// settle makes it an hour since anything was added.
func (l layout) settle() layout {
	l.t.Helper()
	old := time.Now().Add(-time.Hour)
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Type().IsRegular()) {
			err = os.Chtimes(path, old, old)
		}
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return l
}

// tree writes trees/<commit>.json as huggingface_hub does.
func (l layout) tree(repo, commit string, files ...fetcher.File) {
	l.t.Helper()
	l.write(repo, "trees/"+commit+".json", treeText(l.t, files...))
}

func treeText(t testing.TB, files ...fetcher.File) string {
	t.Helper()
	listed := map[string]any{}
	for _, f := range files {
		e := map[string]any{"size": f.Size, "blob_id": f.OID}
		if f.Digest.Algorithm() == fetcher.SHA256 {
			e["lfs_sha256"], e["lfs_size"] = f.Digest.Hex(), f.Size
			e["blob_id"] = strings.Repeat("1", 40)
		}
		if f.XetHash != "" {
			e["xet_hash"] = f.XetHash
		}
		listed[f.Path.String()] = e
	}
	text, err := json.MarshalIndent(map[string]any{"files": listed, "format_version": 1}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// open returns l as a Cache.
func (l layout) open() *Cache { return cacheAt(l.t, l.dir) }

func cacheAt(t testing.TB, dir string) *Cache {
	t.Helper()
	return must[*Cache](t)(New(Config{Dir: dir}))
}

// fileOf describes content: an LFS file if it is named so, else one kept in git.
func fileOf(t testing.TB, path, content string) fetcher.File {
	t.Helper()
	algorithm := fetcher.GitBlobSHA1
	if strings.HasSuffix(path, ".safetensors") {
		algorithm = fetcher.SHA256
	}
	f := fetcher.File{Path: pathOf(t, path), Size: int64(len(content)), Digest: digestBy(t, algorithm, content)}
	if algorithm == fetcher.GitBlobSHA1 {
		f.OID = f.Digest.Hex()
	}
	return f
}

func digestBy(t testing.TB, algorithm fetcher.Algorithm, content string) fetcher.Digest {
	t.Helper()
	h := fetcher.NewHasher(algorithm, int64(len(content)))
	h.Write([]byte(content))
	return must[fetcher.Digest](t)(h.Digest())
}

func repoOf(t testing.TB, s string) fetcher.Repo {
	t.Helper()
	return must[fetcher.Repo](t)(fetcher.ParseRepo(s))
}

func refOf(t testing.TB, s string) fetcher.Ref {
	t.Helper()
	return must[fetcher.Ref](t)(fetcher.ParseRef(s))
}

func pathOf(t testing.TB, s string) fetcher.Path {
	t.Helper()
	return must[fetcher.Path](t)(fetcher.ParsePath(s))
}

func revOf(t testing.TB, repo, commit string) fetcher.Revision {
	t.Helper()
	return fetcher.Revision{Repo: repoOf(t, repo), Commit: must[fetcher.Commit](t)(fetcher.ParseCommit(commit))}
}
