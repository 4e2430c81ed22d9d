package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestRecordsAreThereAfterOpeningAgain(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	at := time.Date(2026, 11, 24, 1, 2, 3, 4, time.UTC)
	v1 := must(fetcher.ParseRef("release/v1"))
	want := store.RepoRecord{PublicAt: at, Refs: map[string]store.RefRecord{
		"main":       {Commit: commit2, ResolvedAt: at, Authority: "hub"},
		"release/v1": {Commit: commit1, ResolvedAt: at, Authority: "file"},
	}}
	m := storetest.Manifest(t, repoB, commit1, smallFiles(), isLFS)
	if err := errors.Join(
		s.SetRef(originB, mainRef, store.RefRecord{Commit: commit1, ResolvedAt: at, Authority: "hub"}),
		s.SetRef(originB, mainRef, want.Refs["main"]), s.SetRef(originB, v1, want.Refs["release/v1"]),
		s.SetPublic(originB, at), s.SetPublic(originA, at), s.SetPublic(originA, time.Time{}),
		s.PutManifest(originB, m), s.PutManifest(originB, m)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = storetest.OpenAt(t, dir)
	if got, err := s.Repo(repoB); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the record is %+v (%v)", got, err)
	}
	if got, err := s.Repo(repoA); err != nil || !got.PublicAt.IsZero() {
		t.Errorf("the withdrawn proof is %+v (%v)", got, err)
	}
	if got, err := s.Repos(); err != nil || !slices.Equal(got, []fetcher.Repo{repoB, repoA}) {
		t.Errorf("Repos says %v (%v)", got, err)
	}
	if got, err := s.Manifest(originB, commit1); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("the manifest is %+v (%v)", got, err)
	}
	if _, err := s.Manifest(originB, commit2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no manifest is %v", err)
	}
}

func TestARecordThatCannotBeReadIsAbsentAndCanBeWrittenAgain(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"flipped": func(path string) error { return flip(path, 70) },
		"torn":    func(path string) error { return os.Truncate(path, 20) },
		"empty":   func(path string) error { return os.Truncate(path, 0) },
	} {
		dir := t.TempDir()
		s := storetest.OpenAt(t, dir)
		storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
		s.Close()
		if err := errors.Join(
			spoil(filepath.Join(dir, "manifests", "model", "org--model-a", commit1.String()+".json")),
			spoil(filepath.Join(dir, "refs", "model", "org--model-a.json"))); err != nil {
			t.Fatal(err)
		}
		s = storetest.OpenAt(t, dir)
		if _, err := s.Manifest(originA, commit1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the manifest is %v", name, err)
		}
		if rec, err := s.Repo(repoA); err != nil || rec.Refs != nil {
			t.Errorf("%s: the record is %v (%v)", name, rec, err)
		}
		if repos, err := s.Repos(); err != nil || len(repos) > 0 {
			t.Errorf("%s: Repos says %v (%v)", name, repos, err)
		}
		storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
		if rec, err := s.Repo(repoA); err != nil || rec.Refs["main"].Commit != commit1 {
			t.Errorf("%s: the record written again is %v (%v)", name, rec, err)
		}
	}
}

// tear adds half a line.
func tear(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("sha256:0123"); err != nil {
		t.Fatal(err)
	}
}

func TestATornOriginLineIsDroppedAndTheOthersKept(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	s.Close()
	tear(t, filepath.Join(dir, "origins", "model", "org--model-a"))
	s = storetest.OpenAt(t, dir)
	for _, f := range m.Files {
		if !s.CameThrough(f.Digest, originA) {
			t.Errorf("the origin of %s is lost", f.Path)
		}
	}
	content := random(9, 10)
	added := storetest.File(t, "more", content, false)
	storetest.Ingest(t, s, repoA, added, content)
	s.Close()
	s = storetest.OpenAt(t, dir)
	if !s.CameThrough(added.Digest, originA) {
		t.Error("an origin added after the torn line is lost")
	}
}

func TestOpenRefusesAnotherVersionAndASecondProcess(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	if _, err := store.Open(store.Config{Dir: dir}); !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second Open says %v", err)
	}
	s.Close()
	s = storetest.OpenAt(t, dir)
	s.Close()

	later := t.TempDir()
	if err := os.WriteFile(filepath.Join(later, "version"), []byte("2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(store.Config{Dir: later}); err == nil || !strings.Contains(err.Error(), `"2"`) || !strings.Contains(err.Error(), later) {
		t.Errorf("another version: %v", err)
	}
	if entries, _ := os.ReadDir(later); len(entries) != 1 {
		t.Errorf("a refused directory was written to: %v", entries)
	}
	unversioned := t.TempDir()
	if err := os.Mkdir(filepath.Join(unversioned, "blobs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(store.Config{Dir: unversioned}); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("blobs without a version: %v", err)
	}
	if _, err := store.Open(store.Config{}); err == nil {
		t.Error("no directory at all was accepted")
	}
}

func TestAClosedStoreChangesNothing(t *testing.T) {
	s := storetest.Open(t)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	s.Close()
	_, ingest := s.Ingest(originA, m.Files[0])
	_, _, pin := s.PinView(t.Context(), k, volume("1"))
	for name, err := range map[string]error{
		"Ingest": ingest, "PinView": pin, "Commit": s.Commit(t.Context(), nil), "Unpin": s.Unpin(t.Context(), volume("1")),
		"AssembleView": s.AssembleView(t.Context(), k, m), "PutManifest": s.PutManifest(originA, m), "SetPublic": s.SetPublic(originA, time.Now()),
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s says %v", name, err)
		}
	}
}

func TestOpenRemovesWhatWasHalfMade(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	s.Close()
	half := []string{"views/0123.partial/root/x", "pins/.tmp-1", "sums/.tmp-2", "manifests/model/.tmp-3", ".tmp-4",
		"ingests/sha256-none/journal"}
	for _, f := range m.Files { // a Commit that did not come to clear up
		name := store.IngestName(originA, f.Digest)
		half = append(half, "ingests/"+name)
	}
	for _, path := range half {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	other := filepath.Join(dir, "ingests", store.IngestName(originB, m.Files[0].Digest))
	if err := os.WriteFile(other, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	storetest.OpenAt(t, dir)
	for _, path := range half {
		if _, err := os.Lstat(filepath.Join(dir, path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if _, err := os.Lstat(other); err != nil {
		t.Errorf("an ingest of another repository is gone: %v", err)
	}
}

func TestARefDoesNotGoBackToAnOlderAnswer(t *testing.T) {
	s := storetest.Open(t)
	now := time.Now()
	set := func(c fetcher.Commit, at time.Time) {
		t.Helper()
		if err := s.SetRef(originA, mainRef, store.RefRecord{Commit: c, ResolvedAt: at, Authority: "hub"}); err != nil {
			t.Fatal(err)
		}
	}
	names := func() fetcher.Commit {
		t.Helper()
		rec, err := s.Repo(repoA)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Refs[mainRef.String()].Commit
	}
	set(commit1, now)
	set(commit2, now.Add(-time.Second))
	if names() != commit1 {
		t.Error("an older answer replaced a newer one")
	}
	set(commit2, now.Add(time.Hour))
	set(commit1, now)
	if names() != commit1 {
		t.Error("an answer from the future, which a clock's mistake made, cannot be replaced")
	}
}
