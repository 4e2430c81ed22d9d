package agent_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// A name that is given up may be registered anew by a stranger, who must inherit nothing:
// what was brought through it stays its old owners'.
func TestARepoRegisteredAnewInheritsNothing(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	secret := map[string][]byte{"weights.safetensors": noise(7, 50_000)}
	old := w.hub.AddRepo("team/secret", secret)
	w.hub.SetPrivate("team/secret", "owner")
	w.must(request("owner", "team/secret", token("owner")))
	stolen := w.hub.Manifest("team/secret")["weights.safetensors"]

	files := small(2)
	w.hub.Recreate("team/secret", files)
	w.sees(w.must(request("anyone", "team/secret")), files)

	for _, again := range []bool{false, true} {
		w.refused(request("old", "team/secret", at(old)), fetcher.ErrRevisionNotFound)
		w.refused(request("old-owner", "team/secret", at(old), token("owner")), fetcher.ErrRevisionNotFound)
		rev := fetcher.Revision{Repo: request("", "team/secret").Repo, Commit: commitOf(old)}
		if m, err := w.Listing(t.Context(), agent.Caller{}, rev.Repo, ref(old)); !errors.Is(err, fetcher.ErrRevisionNotFound) {
			t.Errorf("the old commit's listing is %v, %v", m, err)
		}
		if f, err := w.OpenFile(t.Context(), agent.Caller{}, fetcher.Revision{Repo: rev.Repo, Commit: w.must(request("anyone", "team/secret")).Revision.Commit}, stolen); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old file is %v, %v", f, err)
		}
		// The stranger's public Repo lends nobody what came through the old one.
		w.claimIsNoProof("attacker/claims", stolen)
		if !again {
			w.restart()
		}
	}
}

// The stranger may have got hold of one commit of the old Repo, and push that. It opens
// nothing else of it: neither its other commits nor their files.
func TestOneCommitOfARepoRegisteredAnewOpensNoOther(t *testing.T) {
	for name, as := range map[string]string{"publicly": "", "for the stranger's token": "stranger"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).start()
			leaked := map[string][]byte{"weights.safetensors": noise(7, 50_000)}
			known := w.hub.AddRepo("team/secret", leaked)
			secret := map[string][]byte{"weights.safetensors": noise(8, 50_000)}
			w.hub.SetPrivate("team/secret", "owner")
			w.must(request("owner-1", "team/secret", token("owner")))
			later := w.hub.AddRepo("team/secret", secret)
			w.must(request("owner-2", "team/secret", token("owner"), at(later)))
			stolen := w.hub.Manifest("team/secret")["weights.safetensors"]

			if again := w.hub.Recreate("team/secret", leaked); again != known {
				t.Fatalf("the commit is %s, want %s again", again, known)
			}
			if as != "" {
				w.hub.SetPrivate("team/secret", as)
			}
			w.hub.ResetRequests()
			w.sees(w.must(request("one", "team/secret", at(known), token(as))), leaked)
			if w.contentRequests() == 0 {
				t.Error("bytes that came through the old repository were given to the new one's readers")
			}
			w.refused(request("two", "team/secret", at(later), token(as)), fetcher.ErrRevisionNotFound)
			w.claimIsNoProof("attacker/claims", stolen)
		})
	}
}

func TestAFlightThatTheRepoWasReplacedUnderHandsOutNothingOfTheNewOne(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	secret := map[string][]byte{"a.bin": noise(7, 50_000), "b.bin": noise(8, 60_000)}
	old := w.hub.AddRepo("team/secret", secret)
	w.hub.SetPrivate("team/secret", "owner")
	release := w.hub.Hold("team/secret", "a.bin")
	owner := request("owner", "team/secret", token("owner"), at(old))
	stop, ended := w.acquireAside(owner)
	defer stop()
	w.until("it is on its way", func() bool { return w.flights() == 1 && w.store.Stats().Blobs > 0 })
	// The stranger has the same commit, and so the same Manifest.
	w.hub.Recreate("team/secret", secret)
	w.hub.ResetRequests()
	anyone := request("anyone", "team/secret")
	w.waits(anyone, 300*time.Millisecond)
	if w.contentRequests() == 0 {
		t.Error("the new repository's reader joined the old one's flight")
	}
	release()
	w.sees(w.must(anyone), secret)
	<-ended // with what it was granted, or to be asked again: by then its token is nobody's
}

// Where an Authority tells no id, everything is as if there were no strangers; one that
// stops telling it has not changed a thing.
func TestAnAuthorityThatTellsNoIDForgetsNothing(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	tells, main := true, ""
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		_, revision, ok := strings.Cut(r.URL.Path, "/org/name/revision/")
		if !ok || tells {
			return false
		}
		if revision == "main" {
			revision = main
		}
		json.NewEncoder(rw).Encode(map[string]any{"sha": revision})
		return true
	})
	first := w.hub.AddRepo("org/name", small(1))
	w.must(request("one", "org/name"))
	id := w.origin("org/name").ID
	if id == "" {
		t.Fatal("the Hub told no id: this test shows nothing")
	}
	tells, main = false, w.hub.AddRepo("org/name", small(2))
	w.must(request("two", "org/name"))
	if got := w.origin("org/name").ID; got != id {
		t.Errorf("the id is %q, was %q", got, id)
	}
	w.hub.ResetRequests()
	w.must(request("three", "org/name", at(first)))
	if asked := w.hub.Requests(); len(asked) != 0 {
		t.Errorf("what was known was asked again: %+v", asked)
	}
}

func commitOf(s string) fetcher.Commit {
	c, err := fetcher.ParseCommit(s)
	if err != nil {
		panic(err)
	}
	return c
}
