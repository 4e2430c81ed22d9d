package agent_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestWhoMayHaveWhat(t *testing.T) {
	for _, tc := range []struct {
		repo, token string
		want        error
		advice      string
	}{
		{"org/public", "", nil, ""},
		{"org/public", "good", nil, ""},
		{"org/public", "unknown-to-the-hub", nil, ""},
		{"org/private", "", fetcher.ErrNotFound, "nodePublishSecretRef"},
		{"org/private", "good", nil, ""},
		{"org/private", "other", fetcher.ErrNotFound, "may read it"},
		{"org/private", "unknown-to-the-hub", fetcher.ErrBadToken, "valid token"},
		{"org/gated", "", fetcher.ErrGated, "name a Secret"},
		{"org/gated", "good", nil, ""},
		{"org/gated", "other", fetcher.ErrGated, "as the account of the Secret's HF_TOKEN"},
		{"org/missing", "", fetcher.ErrNotFound, "repo attribute"},
		{"org/missing", "good", fetcher.ErrNotFound, "repo attribute"},
	} {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/token=%s/cached=%v", tc.repo, tc.token, cached), func(t *testing.T) {
				w := newWorld(t).start()
				w.hub.AddToken("good")
				w.hub.AddToken("other")
				files := small(1)
				commits := map[string]string{"org/missing": strings.Repeat("a", 40)}
				for _, repo := range []string{"org/public", "org/private", "org/gated"} {
					commits[repo] = w.hub.AddRepo(repo, files)
				}
				w.hub.SetPrivate("org/private", "good")
				w.hub.SetGated("org/gated", "good")
				if cached && tc.repo != "org/missing" {
					w.must(request("earlier", tc.repo, token("good")))
				}
				for _, revision := range []string{"main", commits[tc.repo]} {
					req := request("pod-"+revision, tc.repo, token(tc.token), at(revision))
					if tc.want == nil {
						w.sees(w.must(req), files)
						continue
					}
					refused := w.refused(req, tc.want)
					contains(t, refused.Error(), tc.repo, tc.advice)
					if tc.token != "" && strings.Contains(refused.Error(), tc.token) {
						t.Errorf("the token is in the error: %v", refused)
					}
				}
			})
		}
	}
}

func TestPinnedCommitOfAPublicRepoNeedsNoNetwork(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	commit := w.hub.AddRepo("org/name", files)
	w.must(request("one", "org/name"))
	w.restart() // the proof outlives the process
	w.hub.Down(true)
	w.hub.ResetRequests()
	m := w.must(request("two", "org/name", at(commit)))
	w.sees(m, files)
	if asked := w.hub.Requests(); len(asked) != 0 || m.Notice != "" {
		t.Errorf("asked %+v, notice %q; want neither", asked, m.Notice)
	}
}

func TestRefIsServedFromItsLastRevisionWhileTheHubIsDownAndSaysSo(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.cfg.PublicFor = time.Nanosecond // kept while the Hub cannot be reached
	w.start()
	files := model(1)
	w.hub.AddRepo("org/name", files)
	w.must(request("one", "org/name"))
	w.hub.Down(true)
	m := w.must(request("two", "org/name"))
	w.sees(m, files)
	contains(t, m.Notice, "hub could not be reached", "org/name@", "main")
}

func TestARateLimitIsNotUnreachable(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.AddRepo("org/name", model(1))
	w.must(request("one", "org/name"))
	w.hub.RateLimit(1000, time.Minute)
	waiting := w.waits(request("two", "org/name"), 300*time.Millisecond)
	contains(t, waiting.Progress, "rate limited")
}

func TestPrivateSnapshotIsNotServedOfflineBeyondItsProof(t *testing.T) {
	for _, tc := range []struct {
		name          string
		proof, grace  time.Duration
		token         string
		wantMountable bool
	}{
		{"proof is fresh", time.Hour, 0, "good", true},
		{"proof has aged", time.Nanosecond, 0, "good", false},
		{"proof has aged within grace", time.Nanosecond, time.Hour, "good", true},
		{"another credential", time.Hour, time.Hour, "other", false},
		{"no credential", time.Hour, time.Hour, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.RefMaxAge = time.Nanosecond
			w.cfg.ProofFor, w.cfg.ProofGrace = tc.proof, tc.grace
			w.start()
			w.hub.AddToken("good")
			w.hub.AddToken("other")
			w.hub.AddRepo("org/private", small(1))
			w.hub.SetPrivate("org/private", "good")
			w.must(request("one", "org/private", token("good")))
			w.hub.Down(true)
			req := request("two", "org/private", token(tc.token))
			if tc.wantMountable {
				w.must(req)
				return
			}
			waiting := w.waits(req, 300*time.Millisecond)
			if waiting.Total != 0 {
				t.Errorf("progress was shown to one who has no access: %+v", waiting)
			}
		})
	}
}

func TestARepoThatTurnedPrivateIsClosedToOthers(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.AddToken("good")
	commit := w.hub.AddRepo("org/name", model(1))
	w.must(request("one", "org/name"))
	w.hub.SetPrivate("org/name", "good")
	w.refused(request("two", "org/name"), fetcher.ErrNotFound)
	w.refused(request("three", "org/name", at(commit)), fetcher.ErrNotFound)
	w.must(request("four", "org/name", token("good")))
}

func TestRevokedTokenOfOneWaiterDoesNotFailTheOthers(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("revoked")
	w.hub.AddToken("good")
	files := small(1)
	w.hub.AddRepo("org/private", files)
	w.hub.SetPrivate("org/private", "revoked", "good")
	var broken, denied atomic.Bool
	broken.Store(true)
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/config.json") {
			return false
		}
		if broken.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		denied.Store(denied.Load() || strings.HasSuffix(r.Header.Get("Authorization"), "revoked"))
		return false
	})
	first, second := request("first", "org/private", token("revoked")), request("second", "org/private", token("good"))
	w.waits(first, 200*time.Millisecond) // the flight asks with the first one's token
	w.waits(second, 20*time.Millisecond)
	w.hub.RevokeToken("revoked")
	broken.Store(false)
	w.sees(w.must(second), files)
	if !denied.Load() {
		t.Error("the flight never met the revoked token: this test shows nothing")
	}
	w.refused(first, fetcher.ErrBadToken)
}

func TestATokenThatIsGoodAgainIsTriedAgain(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("comes-back")
	w.hub.AddToken("waits")
	files := small(1)
	w.hub.AddRepo("org/private", files)
	w.hub.SetPrivate("org/private", "comes-back", "waits")
	var broken atomic.Bool
	broken.Store(true)
	asked, denied := make(chan struct{}, 8), make(chan struct{})
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/config.json") || !broken.Load() {
			return false
		}
		if strings.HasSuffix(r.Header.Get("Authorization"), "waits") { // keeps the flight up
			rw.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		asked <- struct{}{}
		<-denied
		rw.Header().Set("X-Error-Message", "Invalid credentials in Authorization header")
		rw.WriteHeader(http.StatusUnauthorized)
		return true
	})
	back, waits := request("back", "org/private", token("comes-back")), request("waits", "org/private", token("waits"))
	_, first := w.acquireAside(back)
	<-asked
	stop, other := w.acquireAside(waits)
	defer func() { stop(); <-other }()
	w.until("both wait", func() bool { return w.waiters() == 2 })
	close(denied)
	if err := <-first; !errors.Is(err, fetcher.ErrBadToken) {
		t.Fatalf("the token that was turned away: %v", err)
	}
	w.waits(back, 100*time.Millisecond) // it joins anew
	w.hub.RevokeToken("waits")          // and is the only one left
	broken.Store(false)
	w.sees(w.must(back), files)
}

// A repository that claims another tenant's private file, in its tree and in
// X-Linked-Etag, must not be given its bytes from the cache.
func TestAClaimedDigestIsNoProof(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("victim")
	secret := noise(7, 50_000)
	w.hub.AddRepo("victim/private", map[string][]byte{"weights.safetensors": secret})
	w.hub.SetPrivate("victim/private", "victim")
	w.must(request("victim", "victim/private", token("victim")))
	w.claimIsNoProof("attacker/public", w.hub.Manifest("victim/private")["weights.safetensors"])
}

// The same while the victim's bytes are on their way in.
func TestAClaimedDigestIsNoProofWhileTheBytesAreOnTheirWay(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("victim")
	secret := noise(7, 50_000)
	w.hub.AddRepo("victim/private", map[string][]byte{"weights.safetensors": secret})
	w.hub.SetPrivate("victim/private", "victim")
	release := w.hub.Hold("victim/private", "weights.safetensors")
	victim := request("victim", "victim/private", token("victim"))
	stop, ended := w.acquireAside(victim)
	defer stop()
	w.until("an ingest is open", func() bool { return w.store.Stats().Ingests == 1 })
	w.claimIsNoProof("attacker/public", w.hub.Manifest("victim/private")["weights.safetensors"])
	release()
	must(t, <-ended)
}

func TestBytesOfAPublicRepoServeAnotherRepoWithoutFetching(t *testing.T) {
	w := newWorld(t).start()
	files := model(1)
	w.hub.AddRepo("org/base", files)
	w.hub.AddRepo("org/copy", files)
	w.must(request("one", "org/base"))
	w.hub.ResetRequests()
	m := w.must(request("two", "org/copy"))
	w.sees(m, files)
	if n := w.contentRequests(); n != 0 || m.Fetched != 0 {
		t.Errorf("%d content requests, %d bytes fetched; want none", n, m.Fetched)
	}
}
