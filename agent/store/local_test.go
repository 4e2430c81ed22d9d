package store_test

import (
	"encoding/json"
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

var localA = store.Origin{Repo: repoA, Authority: "models"}

// listedBy is m as a local Authority lists it.
func listedBy(authority string, m *fetcher.Manifest) *fetcher.Manifest {
	own := *m
	own.Authority = authority
	return &own
}

func TestWhatALocalAuthoritySaidIsNotWhatTheHubSaid(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	at := time.Now().UTC()
	content, theirs := random(1, 100), random(2, 100)
	m := listedBy("models", storetest.Manifest(t, repoA, commit1, map[string][]byte{"a.bin": content}, isLFS))
	hub := storetest.Fill(t, s, repoA, commit1, map[string][]byte{"a.bin": theirs}, isLFS)
	if err := errors.Join(s.PutManifest(localA, m), s.SetListed(localA, commit1, store.Listing(m), at),
		s.SetRef(localA, mainRef, store.RefRecord{Commit: commit1, ResolvedAt: at, Authority: "models"})); err != nil {
		t.Fatal(err)
	}
	in := begin(t, s, localA, m.Files[0])
	write(t, in, content)
	if err := errors.Join(in.Verify(), s.Commit(t.Context(), []*store.Ingest{in}), in.Close()); err != nil {
		t.Fatal(err)
	}
	ours := store.ViewKey{Revision: m.Revision, Authority: "models", Listing: store.Listing(m), Layout: store.Snapshot}
	mustView(t, s, ours, m, volume("local"))
	mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, hub, volume("hub"))
	for range 2 {
		if got, err := s.Manifest(localA, commit1); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("models listed %+v, %v", got, err)
		}
		if got, err := s.Manifest(originA, commit1); err != nil || !reflect.DeepEqual(got, hub) {
			t.Errorf("the Hub listed %+v, %v", got, err)
		}
		if s.CameThrough(m.Files[0].Digest, originA) || s.CameThrough(hub.Files[0].Digest, localA) || !s.CameThrough(m.Files[0].Digest, localA) {
			t.Errorf("bytes came through %v and %v", s.Origins(m.Files[0].Digest), s.Origins(hub.Files[0].Digest))
		}
		if rec, err := s.RepoBy(repoA, "other"); err != nil || len(rec.Refs) != 0 {
			t.Errorf("another authority said %+v, %v", rec, err)
		}
		if rec, err := s.Repo(repoA); err != nil || len(rec.Listed) != 0 || rec.Refs["main"].Authority != "hub" {
			t.Errorf("the Hub said %+v, %v", rec, err)
		}
		if all, err := s.Locals(); err != nil || !slices.Equal(all, []store.Origin{localA}) {
			t.Errorf("Locals says %v, %v", all, err)
		}
		if all, err := s.Repos(); err != nil || !slices.Equal(all, []fetcher.Repo{repoA}) {
			t.Errorf("Repos says %v, %v", all, err)
		}
		s.Close()
		mustCheck(t, dir)
		s = storetest.OpenAt(t, dir)
	}
}

func TestAnotherListingOfACommitIsAnotherView(t *testing.T) {
	s := storetest.Open(t)
	var views []string
	for i, content := range [][]byte{random(1, 100), random(2, 100)} {
		m := listedBy("models", storetest.Manifest(t, repoA, commit1, map[string][]byte{"a.bin": content}, isLFS))
		in := begin(t, s, localA, m.Files[0])
		write(t, in, content)
		if err := errors.Join(in.Verify(), s.Commit(t.Context(), []*store.Ingest{in}), s.PutManifest(localA, m)); err != nil {
			t.Fatal(err)
		}
		key := store.ViewKey{Revision: m.Revision, Authority: "models", Listing: store.Listing(m), Layout: store.Snapshot}
		views = append(views, mustView(t, s, key, m, volume(string(rune('a'+i)))).ID)
	}
	if views[0] == views[1] {
		t.Error("two listings are one view")
	}
}

// The ids of Views that exist, and the names of what is the Hub's, are what they were.
func TestWhatTheHubSaidIsWhereItWas(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	m := storetest.Fill(t, s, repoA, commit1, map[string][]byte{"a.bin": random(1, 100)}, isLFS)
	for id, want := range map[string]string{"": "4eea28a1245bdd6af6295f5866adcb99", "62a": "a921c627f65a96069602986cb9cdad8a"} {
		view := mustView(t, s, store.ViewKey{Revision: m.Revision, RepoID: id, Layout: store.Snapshot}, m, volume("of"+id))
		if view.ID != want {
			t.Errorf("the view of the repository %q is %s", id, view.ID)
		}
	}
	for _, path := range []string{"refs/model/org--model-a.json", "manifests/model/org--model-a/" + commit1.String() + ".json", "origins/model/org--model-a"} {
		if _, err := os.Lstat(filepath.Join(dir, path)); err != nil {
			t.Error(err)
		}
	}
}

func TestOnlyWhatCameThroughOneOriginIsAdoptedByAnother(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	came, other := storetest.File(t, "a.bin", random(1, 100), true), storetest.File(t, "b.bin", random(2, 100), true)
	in := begin(t, s, localA, came)
	write(t, in, random(1, 100))
	if err := errors.Join(in.Verify(), s.Commit(t.Context(), []*store.Ingest{in})); err != nil {
		t.Fatal(err)
	}
	storetest.Ingest(t, s, repoB, other, random(2, 100))
	if err := s.Adopt(originA, localA, []fetcher.Digest{came.Digest, other.Digest}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = storetest.OpenAt(t, dir)
	if !s.CameThrough(came.Digest, originA) || s.CameThrough(other.Digest, originA) {
		t.Errorf("adopted: %v and %v", s.Origins(came.Digest), s.Origins(other.Digest))
	}
}

func TestWhatOnlyTheHubCanTellIsNotRecordedOfALocalAuthority(t *testing.T) {
	s := storetest.Open(t)
	m := storetest.Manifest(t, repoA, commit1, map[string][]byte{"a": []byte("1")}, nil)
	now := time.Now()
	for what, err := range map[string]error{
		"public":                   s.SetPublic(localA, now),
		"shown":                    s.SetShown(localA, commit1),
		"a listing of the Hub's":   s.SetListed(originA, commit1, store.Listing(m), now),
		"a listing that is none":   s.SetListed(localA, commit1, "../x", now),
		"another's manifest":       s.PutManifest(localA, m),
		"a view without a listing": s.AssembleView(t.Context(), store.ViewKey{Revision: m.Revision, Authority: "models", Layout: store.Snapshot}, m),
		"the Hub's with a listing": s.AssembleView(t.Context(), store.ViewKey{Revision: m.Revision, Listing: store.Listing(m), Layout: store.Snapshot}, m),
		"a name that is none":      s.SetListed(store.Origin{Repo: repoA, Authority: "../x"}, commit1, store.Listing(m), now),
		"an id":                    s.SetListed(store.Origin{Repo: repoA, Authority: "models", ID: "1"}, commit1, store.Listing(m), now),
	} {
		if err == nil {
			t.Errorf("%s was recorded", what)
		}
	}
	if _, err := s.Manifest(localA, commit1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is %v", err)
	}
}

func TestCheckStoreFindsWhatOnlyTheHubCanTellInALocalRecord(t *testing.T) {
	for name, test := range map[string]struct {
		path, record string
		want         string // in the error
	}{
		"public":                   {"refs/model/org--model-a+models.json", `{"repo":"org/model-a","authority":"models","refs":null,"publicAt":"2026-11-24T00:00:00Z"}`, "only the Hub"},
		"an id":                    {"refs/model/org--model-a+models.json", `{"repo":"org/model-a","authority":"models","id":"1","refs":null}`, "only the Hub"},
		"another authority's":      {"refs/model/org--model-a+models.json", `{"repo":"org/model-a","authority":"others","refs":null}`, `by "others"`},
		"a local one's as the Hub": {"refs/model/org--model-a.json", `{"repo":"org/model-a","authority":"models","refs":null}`, `by "models"`},
		"the Hub's with listings":  {"refs/model/org--model-a.json", `{"repo":"org/model-a","refs":null,"listed":{"` + commit1.String() + `":{}}}`, "no record of that kind"},
		"no listing":               {"refs/model/org--model-a+models.json", `{"repo":"org/model-a","authority":"models","refs":null,"listed":{"` + commit1.String() + `":{"listing":"../x"}}}`, `the listing "../x"`},
		"an id in the name":        {"refs/model/org--model-a+models@1.json", `{"repo":"org/model-a","authority":"models","refs":null}`, "tell no id"},
		"a manifest of another": {"manifests/model/org--model-a+models/" + commit1.String() + ".json",
			`{"revision":{"repo":"org/model-a","commit":"` + commit1.String() + `"},"authority":"others","files":[]}`, "what others listed"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := store.Open(store.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			mustCheck(t, dir)
			data, err := store.EncodeRecord(json.RawMessage(test.record))
			path := filepath.Join(dir, test.path)
			if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
				t.Fatal(err)
			}
			if err := store.CheckStore(dir); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("CheckStore says %v, want %q", err, test.want)
			}
		})
	}
}

// Once the Hub contradicted a commit, another lie about it is no better.
func TestADisputeEndsOnlyByWhatTheHubListsToo(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenAt(t, dir)
	var listings []string
	for i := range 3 {
		m := storetest.Manifest(t, repoA, commit1, map[string][]byte{"a.bin": random(uint64(i), 100)}, isLFS)
		listings = append(listings, store.Listing(m))
	}
	lie, right, otherLie := listings[0], listings[1], listings[2]
	list := func(listing string) func() error {
		return func() error { return s.SetListed(localA, commit1, listing, time.Now()) }
	}
	for i, step := range []struct {
		do                 func() error
		disputed, compared bool
	}{
		{list(lie), false, false},
		{func() error { return s.SetDiffers(localA, commit1, lie, "a.bin is another") }, true, true},
		{list(otherLie), true, false},
		{list(right), true, false},
		{func() error { return s.SetEqual(localA, commit1, right) }, false, true},
		{list(lie), true, true},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = storetest.OpenAt(t, dir)
		rec, err := s.RepoBy(repoA, "models")
		if l := rec.Listed[commit1.String()]; err != nil || l.Disputed(l.Listing) != step.disputed || l.Compared() != step.compared {
			t.Errorf("step %d: the record is %+v, %v", i, l, err)
		}
	}
}
