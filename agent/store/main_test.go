package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// TestMain runs the tests, or, re-executed with crashEnv set, is the process that
// crash_test.go kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	repoA   = must(fetcher.ParseRepo("org/model-a"))
	repoB   = must(fetcher.ParseRepo("datasets/org/data-b"))
	originA = store.Origin{Repo: repoA}
	originB = store.Origin{Repo: repoB}
	commit1 = must(fetcher.ParseCommit("1111111111111111111111111111111111111111"))
	commit2 = must(fetcher.ParseCommit("2222222222222222222222222222222222222222"))
	mainRef = must(fetcher.ParseRef("main"))
)

// random returns n bytes that are the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// twoPieces is the size in bytes of the smallest file of two Pieces.
const twoPieces = fetcher.PieceSize + 1

func isLFS(path string) bool { return len(path) > 4 && path[len(path)-4:] == ".bin" }

// smallFiles has every sort of file but a large one.
func smallFiles() map[string][]byte {
	return map[string][]byte{
		"README.md":         []byte("# hello\n"),
		"empty":             nil,
		"sub/dir/same.txt":  []byte("# hello\n"),
		"sub/ünïcode &.txt": []byte("x"),
		"weights.bin":       random(1, 5000),
	}
}

// quickDir is t.TempDir in memory, if there is room: for tests that sync thousands of
// times or write many large files.
func quickDir(t *testing.T) string {
	t.Helper()
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err != nil || int64(st.Bavail)*st.Bsize < 256<<20 {
		return t.TempDir()
	}
	outer, err := os.MkdirTemp(shm, "ballast-store-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(outer); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(outer, "cache")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func volume(id string) store.Volume { return store.Volume{ID: id, Target: "/pods/" + id + "/mount"} }

func mustView(t *testing.T, s *store.Store, k store.ViewKey, m *fetcher.Manifest, v store.Volume) store.View {
	t.Helper()
	if err := s.AssembleView(t.Context(), k, m); err != nil {
		t.Fatal(err)
	}
	view, ok, err := s.PinView(t.Context(), k, v)
	if err != nil || !ok {
		t.Fatalf("PinView says %v, %v", ok, err)
	}
	return view
}

// pinOf returns v's Pin, if it has one.
func pinOf(s *store.Store, v store.Volume) (store.Pin, bool) {
	for _, p := range s.Pins() {
		if p.Volume == v {
			return p, true
		}
	}
	return store.Pin{}, false
}

func mustCheck(t *testing.T, dir string) {
	t.Helper()
	if err := store.CheckStore(dir); err != nil {
		t.Errorf("the store's invariants do not hold:\n%v", err)
	}
}

func begin(t *testing.T, s *store.Store, o store.Origin, f fetcher.File) *store.Ingest {
	t.Helper()
	in, err := s.Ingest(o, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return in
}

// write writes the missing Pieces of in.
func write(t *testing.T, in *store.Ingest, content []byte) {
	t.Helper()
	for _, p := range in.Missing() {
		if err := in.WritePiece(p, bytes.NewReader(content[p.Offset:p.Offset+p.Size])); err != nil {
			t.Fatal(err)
		}
	}
}

func indexes(pieces []fetcher.Piece) (list []int) {
	for _, p := range pieces {
		list = append(list, p.Index)
	}
	return list
}

// useStore does all that a Store is for, with the disk failing or the process dying at
// any step, and can be called again until it succeeds.
func useStore(s *store.Store, tb testing.TB, files map[string][]byte) error {
	m := storetest.Manifest(tb, repoA, commit1, files, isLFS)
	var ins []*store.Ingest
	defer func() {
		for _, in := range ins {
			in.Close()
		}
	}()
	begun := map[fetcher.Digest]bool{}
	for _, f := range m.Files {
		if s.HasBlob(f.Digest) && s.CameThrough(f.Digest, originA) || begun[f.Digest] {
			continue
		}
		begun[f.Digest] = true
		in, err := s.Ingest(originA, f)
		if err != nil {
			return err
		}
		ins = append(ins, in)
		content := files[f.Path.String()]
		for _, p := range in.Missing() {
			if err := in.WritePiece(p, io.NewSectionReader(bytes.NewReader(content), p.Offset, p.Size)); err != nil {
				return err
			}
		}
		if err := in.Verify(); err != nil {
			return err
		}
	}
	if err := s.Commit(tb.Context(), ins); err != nil {
		return err
	}
	at := time.Unix(1, 0).UTC()
	if err := errors.Join(s.PutManifest(originA, m), s.SetPublic(originA, at),
		s.SetRef(originA, mainRef, store.RefRecord{Commit: commit1, ResolvedAt: at, Authority: "hub"})); err != nil {
		return err
	}
	if err := replaceRepo(s, tb, at); err != nil {
		return err
	}
	for _, layout := range []store.Layout{store.Snapshot, store.HubCache} {
		k := store.ViewKey{Revision: m.Revision, Ref: mainRef, Layout: layout}
		if err := s.AssembleView(tb.Context(), k, m); err != nil {
			return err
		}
		for _, id := range []string{"stays", "goes"} {
			if _, ok, err := s.PinView(context.Background(), k, volume(string(layout)+id)); err != nil || !ok {
				return fmt.Errorf("PinView says %v, %w", ok, err)
			}
		}
		if err := s.Unpin(tb.Context(), volume(string(layout)+"goes")); err != nil {
			return err
		}
	}
	return nil
}

// replacing is repoB before and after a stranger registered its name anew.
var replacing = []store.Origin{{Repo: repoB, ID: "before"}, {Repo: repoB, ID: "after"}}

// replaceRepo has all that is known of a Repo, and then another of its name, of which it
// is known that it is public. In between, nothing of the first counts.
func replaceRepo(s *store.Store, tb testing.TB, at time.Time) error {
	m := storetest.Manifest(tb, repoB, commit1, map[string][]byte{"README.md": []byte("# hello\n")}, isLFS)
	for _, o := range replacing {
		if err := s.Identify(repoB, o.ID); err != nil {
			return err
		}
		rec, err := s.Repo(repoB)
		if err == nil && (rec.ID != o.ID || !rec.PublicAt.IsZero() && !rec.PublicAt.Equal(at) || len(rec.Refs) > 1) {
			err = fmt.Errorf("record of %s is %+v", o, rec)
		}
		if err := errors.Join(err, s.PutManifest(o, m), s.SetPublic(o, at),
			s.SetRef(o, mainRef, store.RefRecord{Commit: commit1, ResolvedAt: at, Authority: "hub"})); err != nil {
			return err
		}
	}
	return nil
}

// used checks that useStore did its work, as s sees it.
func used(s *store.Store, tb testing.TB, files map[string][]byte) error {
	m := storetest.Manifest(tb, repoA, commit1, files, isLFS)
	var errs []error
	for _, f := range m.Files {
		if !s.HasBlob(f.Digest) || !s.CameThrough(f.Digest, originA) {
			errs = append(errs, fmt.Errorf("blob of %s is not here, or not from %s", f.Path, repoA))
		}
	}
	rec, err := s.Repo(repoA)
	if err != nil || rec.Refs["main"].Commit != commit1 || rec.PublicAt.IsZero() {
		errs = append(errs, fmt.Errorf("record of %s: %+v, %w", repoA, rec, err))
	}
	if rec, err := s.Repo(repoB); err != nil || rec.ID != "after" || rec.PublicAt.IsZero() || rec.Refs["main"].Commit != commit1 {
		errs = append(errs, fmt.Errorf("record of %s: %+v, %w", repoB, rec, err))
	}
	if _, err := s.Manifest(replacing[0], commit1); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("the manifest that was replaced: %w", err))
	}
	if _, err := s.Manifest(replacing[1], commit1); err != nil {
		errs = append(errs, err)
	}
	for _, layout := range []store.Layout{store.Snapshot, store.HubCache} {
		if _, ok := pinOf(s, volume(string(layout)+"stays")); !ok {
			errs = append(errs, fmt.Errorf("pin of %s is lost", layout))
		}
		if _, ok := pinOf(s, volume(string(layout)+"goes")); ok {
			errs = append(errs, fmt.Errorf("pin of %s is left", layout))
		}
	}
	if st := s.Stats(); st.Ingests != 0 || st.Views != 2 || st.Pins != 2 {
		errs = append(errs, fmt.Errorf("stats: %+v", st))
	}
	return errors.Join(errs...)
}
