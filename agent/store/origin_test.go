package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// What is known of a Repo is its own, not that of whoever has its name next.
func TestNothingOfARepoIsThatOfAnotherWithItsName(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	before, after := store.Origin{Repo: repoA, ID: "6a1f"}, store.Origin{Repo: repoA, ID: "6b2e"}
	at := time.Now().UTC()
	content := random(1, 100)
	f := storetest.File(t, "a.bin", content, true)
	m := storetest.Manifest(t, repoA, commit1, map[string][]byte{"a.bin": content}, isLFS)
	if err := errors.Join(s.Identify(repoA, before.ID), s.PutManifest(before, m), s.SetPublic(before, at),
		s.SetRef(before, mainRef, store.RefRecord{Commit: commit1, ResolvedAt: at, Authority: "hub"})); err != nil {
		t.Fatal(err)
	}
	in := begin(t, s, before, f)
	write(t, in, content)
	if err := errors.Join(in.Verify(), s.Commit(t.Context(), []*store.Ingest{in})); err != nil {
		t.Fatal(err)
	}
	key := store.ViewKey{Revision: m.Revision, RepoID: before.ID, Layout: store.Snapshot}
	mustView(t, s, key, m, volume("1"))
	kept := storetest.File(t, "kept.bin", random(2, 100), true)
	on := begin(t, s, before, kept) // whole, and not verified
	write(t, on, random(2, 100))

	for _, told := range []string{before.ID, ""} { // nothing new
		if err := s.Identify(repoA, told); err != nil {
			t.Fatal(err)
		}
		if rec, err := s.Repo(repoA); err != nil || rec.ID != before.ID || rec.PublicAt.IsZero() || len(rec.Refs) != 1 {
			t.Fatalf("told %q, the record is %+v, %v", told, rec, err)
		}
	}
	if err := s.Identify(repoA, after.ID); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"SetPublic": s.SetPublic(before, at),
		"SetRef":    s.SetRef(before, mainRef, store.RefRecord{Commit: commit1, ResolvedAt: at, Authority: "hub"}),
	} {
		if !errors.Is(err, store.ErrReplaced) {
			t.Errorf("%s of what was replaced: %v", name, err)
		}
	}
	// What is under way ends as what it was begun as.
	if err := errors.Join(on.Verify(), s.Commit(t.Context(), []*store.Ingest{on})); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if rec, err := s.Repo(repoA); err != nil || rec.ID != after.ID || !rec.PublicAt.IsZero() || len(rec.Refs) != 0 {
			t.Errorf("the record is %+v, %v", rec, err)
		}
		if _, err := s.Manifest(after, commit1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the manifest is the new one's: %v", err)
		}
		for _, f := range slices.Concat(m.Files, []fetcher.File{kept}) {
			if s.CameThrough(f.Digest, after) || !s.CameThrough(f.Digest, before) {
				t.Errorf("%s came through %v", f.Path, s.Origins(f.Digest))
			}
		}
		key.RepoID = after.ID
		if view, ok, err := s.PinView(t.Context(), key, volume("2")); ok || err != nil {
			t.Errorf("the view is the new one's: %+v, %v", view, err)
		}
		s.Close()
		s = storetest.OpenAt(t, dir)
	}
}

func TestBytesOnTheirWayThroughARepoAreNotResumedForAnotherOfItsName(t *testing.T) {
	s := storetest.Open(t)
	content := random(3, twoPieces)
	f := storetest.File(t, "large.bin", content, true)
	in := begin(t, s, store.Origin{Repo: repoA, ID: "before"}, f)
	p := in.Missing()[0]
	if err := in.WritePiece(p, bytes.NewReader(content[:p.Size])); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if left := len(begin(t, s, store.Origin{Repo: repoA, ID: "after"}, f).Missing()); left != 2 {
		t.Errorf("%d pieces are missing, want both", left)
	}
	if left := len(begin(t, s, store.Origin{Repo: repoA, ID: "before"}, f).Missing()); left != 1 {
		t.Errorf("%d pieces are missing to the old one, want 1", left)
	}
}

func TestAnIDThatIsNoNameIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	for _, id := range []string{"../../x", "a/b", "a@b", "a b", ".", string(make([]byte, 1)), string(random(1, 65))} {
		o := store.Origin{Repo: repoA, ID: id}
		_, ingest := s.Ingest(o, storetest.File(t, "a", []byte("1"), false))
		for name, err := range map[string]error{"Identify": s.Identify(repoA, id), "Ingest": ingest,
			"PutManifest": s.PutManifest(o, storetest.Manifest(t, repoA, commit1, map[string][]byte{"a": []byte("1")}, nil))} {
			if err == nil {
				t.Errorf("%s took %q", name, id)
			}
		}
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*", "model", "*")); len(found) != 0 {
		t.Errorf("left %q", found)
	}
}
