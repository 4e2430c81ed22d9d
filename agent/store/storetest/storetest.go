// Package storetest owns helpers for tests that need a cache: one in a directory of
// its own, whose invariants are checked at the end, one with a Snapshot in it, and the
// way into one for what is fetched.
package storetest

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Open opens a Store in a directory of its own. When the test ends the Store is
// closed, if the test did not do so, and CheckStore must find nothing.
func Open(t testing.TB) *store.Store {
	t.Helper()
	return OpenAt(t, t.TempDir())
}

// OpenAt is Open in dir, for tests that open a cache again.
func OpenAt(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{Dir: dir, Log: zaptest.NewLogger(t), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := store.CheckStore(dir); err != nil {
			t.Errorf("the store's invariants do not hold:\n%v", err)
		}
	})
	return s
}

// File describes content as a Manifest does: an LFS file (sha256) or one kept in git.
func File(t testing.TB, path string, content []byte, lfs bool) fetcher.File {
	t.Helper()
	p, err := fetcher.ParsePath(path)
	if err != nil {
		t.Fatal(err)
	}
	alg := fetcher.GitBlobSHA1
	if lfs {
		alg = fetcher.SHA256
	}
	h := fetcher.NewHasher(alg, int64(len(content)))
	h.Write(content)
	d, err := h.Digest()
	if err != nil {
		t.Fatal(err)
	}
	f := fetcher.File{Path: p, Size: int64(len(content)), Digest: d}
	if !lfs {
		f.OID = d.Hex()
	}
	return f
}

// Manifest describes files at a commit, as the Authority "hub" would; lfs says which
// are LFS files (nil: none).
func Manifest(t testing.TB, repo fetcher.Repo, commit fetcher.Commit, files map[string][]byte, lfs func(path string) bool) *fetcher.Manifest {
	t.Helper()
	var list []fetcher.File
	for path, content := range files {
		list = append(list, File(t, path, content, lfs != nil && lfs(path)))
	}
	m, err := fetcher.NewManifest(fetcher.Revision{Repo: repo, Commit: commit}, "hub", list)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Ingest brings content into s through repo, of which no id is known, by Ingest, WritePiece, Verify and Commit.
func Ingest(t testing.TB, s *store.Store, repo fetcher.Repo, f fetcher.File, content []byte) {
	t.Helper()
	in, err := s.Ingest(store.Origin{Repo: repo}, f)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, p := range in.Missing() {
		if err := in.WritePiece(p, bytes.NewReader(content[p.Offset:p.Offset+p.Size])); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Verify(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), []*store.Ingest{in}); err != nil {
		t.Fatal(err)
	}
}

// Fill brings files into s as commit of repo, records the Manifest, and has main name
// the commit. lfs says which are LFS files (nil: none).
func Fill(t testing.TB, s *store.Store, repo fetcher.Repo, commit fetcher.Commit, files map[string][]byte, lfs func(path string) bool) *fetcher.Manifest {
	t.Helper()
	m := Manifest(t, repo, commit, files, lfs)
	var done []fetcher.Digest
	for _, f := range m.Files {
		if !slices.Contains(done, f.Digest) {
			done = append(done, f.Digest)
			Ingest(t, s, repo, f, files[f.Path.String()])
		}
	}
	if err := s.PutManifest(store.Origin{Repo: repo}, m); err != nil {
		t.Fatal(err)
	}
	main, err := fetcher.ParseRef("main")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetRef(store.Origin{Repo: repo}, main, store.RefRecord{Commit: commit, ResolvedAt: time.Now().UTC(), Authority: "hub"}); err != nil {
		t.Fatal(err)
	}
	return m
}
