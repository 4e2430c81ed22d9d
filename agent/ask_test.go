package agent_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestAMovedRefIsFollowedEvenIfTheFileThatProvesAccessIsGone(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.AddRepo("org/name", small(1))
	w.must(request("one", "org/name"))
	next := map[string][]byte{"config.json": []byte("{}")}
	w.hub.AddRepo("org/name", next)
	w.sees(w.must(request("two", "org/name")), next)
}

func TestAHubThatContradictsItselfIsRefused(t *testing.T) {
	for name, header := range map[string][2]string{
		"the file's digest":   {"X-Linked-Etag", `"` + strings.Repeat("c", 64) + `"`},
		"the commit's commit": {"X-Repo-Commit", strings.Repeat("d", 40)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).start()
			commit := w.hub.AddRepo("org/name", small(1))
			w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodHead {
					return false
				}
				rw.Header().Set("X-Repo-Commit", commit)
				rw.Header().Set(header[0], header[1])
				return true
			})
			refused := w.refused(request("one", "org/name", at(commit)), fetcher.ErrMalformed)
			contains(t, refused.Error(), "org/name", "another revision")
		})
	}
}

func TestAFreshProofOfATokenIsNotAskedForAnonymously(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.AddToken("good")
	w.hub.AddRepo("org/private", small(1))
	w.hub.SetPrivate("org/private", "good")
	w.must(request("one", "org/private", token("good")))
	w.hub.ResetRequests()
	w.must(request("two", "org/private", token("good")))
	if asked := w.hub.Requests(); len(asked) != 1 || asked[0].Method != http.MethodHead || !asked[0].Auth {
		t.Errorf("asked %+v, want one HEAD with the token", asked)
	}
}

func TestAProofThatARepoIsPublicIsRenewedBeforeItEnds(t *testing.T) {
	w := newWorld(t).start()
	commit := w.hub.AddRepo("org/name", small(1))
	req := request("one", "org/name", at(commit))
	w.must(req)
	old := time.Now().Add(-13 * time.Hour)
	must(t, w.store.SetPublic(w.origin("org/name"), old))
	w.hub.ResetRequests()
	w.must(request("two", "org/name", at(commit)))
	w.until("the proof is renewed", func() bool {
		rec, err := w.store.Repo(req.Repo)
		must(t, err)
		return rec.PublicAt.After(old.Add(time.Minute))
	})
	if asked := w.hub.Requests(); len(asked) != 1 {
		t.Errorf("renewing asked %+v, want one HEAD", asked)
	}
}

func TestAFlightWithoutWaitersStopsAskingTheSource(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddRepo("org/name", small(1))
	asked, ended := make(chan struct{}, 8), make(chan struct{}, 8)
	w.hub.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/config.json") {
			return false
		}
		asked <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
		return true
	})
	req := request("one", "org/name")
	w.waits(req, 200*time.Millisecond)
	<-asked
	must(t, w.Release(t.Context(), req.Volume))
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the source is still being read for nobody")
	}
}

func TestAVolumeMayNotChangeWhatItPinned(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddRepo("org/name", small(1))
	w.hub.AddRepo("org/other", small(2))
	commit := w.must(request("one", "org/name")).Revision.Commit
	other := w.hub.AddRepo("org/name", small(3))
	hubCache := func(r *agent.Request) { r.Layout = store.HubCache }
	for name, req := range map[string]agent.Request{
		"repo":   request("one", "org/other"),
		"commit": request("one", "org/name", at(other)),
		"layout": request("one", "org/name", hubCache),
	} {
		refused := w.refused(req, store.ErrPinned)
		contains(t, refused.Error(), "new pod")
		t.Log(name, refused)
	}
	w.must(request("one", "org/name", at(commit.String()))) // what it has
	w.must(request("two", "org/name", hubCache))
	w.refused(request("two", "org/name", hubCache, at(other)), store.ErrPinned)
}

func TestAPinnedCommitDoesNotWaitForAnothersQuestion(t *testing.T) {
	w := newWorld(t).start()
	commit := w.hub.AddRepo("org/name", small(1))
	w.must(request("one", "org/name"))
	asked := make(chan struct{}, 8)
	w.hub.Intercept(func(_ http.ResponseWriter, r *http.Request) bool { // it hangs
		asked <- struct{}{}
		<-r.Context().Done()
		return true
	})
	hangs, hung := w.acquireAside(request("hangs", "org/name", at("v1")))
	defer func() { hangs(); <-hung }()
	<-asked
	w.must(request("two", "org/name", at(commit)))
}

func TestAListingMayTakeLongerThanACall(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddRepo("org/name", small(1))
	w.hub.PageSize(1)
	release := make(chan struct{})
	var pages atomic.Int64
	w.hub.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/tree/") && pages.Add(1) == 2 {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	})
	req := request("one", "org/name")
	for pages.Load() < 2 {
		w.waits(req, 100*time.Millisecond)
	}
	w.waits(req, 100*time.Millisecond)
	close(release)
	w.sees(w.must(req), small(1))
	// Five files in two directories of which one is in the other.
	if got := pages.Load(); got != 7 {
		t.Errorf("%d pages were asked, want each of the 7 once", got)
	}
}

func TestAnotherRefsFailureOpensNoFallback(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.AddRepo("org/name", small(1))
	w.must(request("one", "org/name"))
	next := small(2)
	w.hub.AddRepo("org/name", next)
	held := make(chan struct{})
	asked := make(chan struct{}, 8)
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "broken") {
			return false
		}
		asked <- struct{}{}
		<-held
		rw.WriteHeader(http.StatusBadGateway)
		return true
	})
	stop, ended := w.acquireAside(request("broken", "org/name", at("broken")))
	<-asked
	m := w.must(request("two", "org/name"))
	if m.Notice != "" {
		t.Errorf("notice %q though the Hub answered", m.Notice)
	}
	w.sees(m, next)
	close(held)
	stop()
	<-ended
}

func TestAQuestionIsSharedOnlyByThoseWithTheSameCredential(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("owner")
	w.hub.AddRepo("org/private", small(1))
	w.hub.SetPrivate("org/private", "owner")
	asked, held := make(chan struct{}, 8), make(chan struct{})
	w.hub.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			asked <- struct{}{}
			<-held
		}
		return false
	})
	stop, owner := w.acquireAside(request("owner", "org/private", token("owner")))
	defer stop()
	<-asked
	w.refused(request("nobody", "org/private"), fetcher.ErrNotFound)
	w.refused(request("stranger", "org/private", token("stranger"), func(*agent.Request) { close(held) }), fetcher.ErrBadToken)
	must(t, <-owner)
}

func TestTheFileThatProvesAccessIsNotTheTenantsChoice(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("owner")
	files := small(1)
	files["README.md"] = []byte("# anyone may read this")
	w.hub.AddRepo("org/gated", files)
	w.hub.SetGated("org/gated", "owner")
	w.must(request("owner", "org/gated", token("owner")))
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/README.md") // 200, to everyone
	})
	card, err := fetcher.NewFilter([]string{"README.md"}, nil)
	must(t, err)
	w.refused(request("card", "org/gated", func(r *agent.Request) { r.Filter = card }), fetcher.ErrGated)
	w.refused(request("all", "org/gated"), fetcher.ErrGated)
}

func TestATokenThatReadsOneRepoOpensNoOther(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("mine")
	w.hub.AddToken("theirs")
	commits := map[string]string{}
	for repo, owner := range map[string]string{"me/private": "mine", "them/private": "theirs"} {
		commits[repo] = w.hub.AddRepo(repo, small(uint64(len(repo))))
		w.hub.SetPrivate(repo, owner)
		w.must(request(owner, repo, token(owner)))
	}
	w.refused(request("thief", "them/private", token("mine"), at(commits["them/private"])), fetcher.ErrNotFound)
}

func TestAnAgedPublicProofIsNoProof(t *testing.T) {
	for name, proved := range map[string]time.Duration{"long ago": -25 * time.Hour, "in the future": time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).start()
			w.hub.AddToken("owner")
			files := small(1)
			commit := w.hub.AddRepo("org/base", files)
			w.hub.AddRepo("org/copy", files)
			w.must(request("one", "org/base"))
			w.hub.SetPrivate("org/base", "owner")
			must(t, w.store.SetPublic(w.origin("org/base"), time.Now().Add(proved)))
			w.hub.ResetRequests()
			w.sees(w.must(request("copy", "org/copy")), files)
			if w.contentRequests() == 0 {
				t.Error("bytes that came through a Repo that is no longer public were used for another")
			}
			w.refused(request("two", "org/base", at(commit)), fetcher.ErrNotFound)
		})
	}
}

func TestBytesAreAskedForAnonymouslyOnlyWhereAnyoneMayHaveThem(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("good")
	w.hub.AddRepo("org/public", small(1))
	w.hub.AddRepo("org/private", small(2))
	w.hub.SetPrivate("org/private", "good")
	for repo, auth := range map[string]bool{"org/public": false, "org/private": true} {
		w.hub.ResetRequests()
		w.must(request(repo, repo, token("good")))
		for _, r := range w.hub.Requests() {
			if r.Kind == "resolve" && r.Method == http.MethodGet && r.Auth != auth {
				t.Errorf("%s: %s %s with a token: %v, want %v", repo, r.Method, r.Path, r.Auth, auth)
			}
		}
	}
}

func TestWhichOfTwoAnswersIsTold(t *testing.T) {
	for _, tc := range []struct {
		name             string
		anonymous, token int // statuses
		waits            bool
	}{
		{"a rate limit passes, whatever the token is worth", http.StatusTooManyRequests, http.StatusUnauthorized, true},
		{"a rate limit says that the Hub is there, whatever the token meets", http.StatusTooManyRequests, http.StatusBadGateway, true},
		{"a token that works needs no anonymous answer", http.StatusBadGateway, http.StatusOK, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t).start()
			w.hub.AddToken("token")
			w.hub.AddRepo("org/name", small(1))
			w.hub.SetPrivate("org/name", "token")
			w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Host == w.hub.CDNHost() { // never gets a token
					return false
				}
				status := tc.anonymous
				if r.Header.Get("Authorization") != "" {
					status = tc.token
				}
				switch status {
				case http.StatusOK:
					return false
				case http.StatusUnauthorized:
					rw.Header().Set("X-Error-Message", "Invalid credentials in Authorization header")
				}
				rw.WriteHeader(status)
				return true
			})
			req := request("one", "org/name", token("token"))
			if tc.waits {
				contains(t, w.waits(req, 300*time.Millisecond).Progress, "rate limited")
				return
			}
			w.sees(w.must(req), small(1))
		})
	}
}

func TestAnETagOfAnotherKindIsNoContradiction(t *testing.T) {
	w := newWorld(t).start()
	files := small(1)
	commit := w.hub.AddRepo("org/name", files)
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodHead {
			return false
		}
		rw.Header().Set("X-Repo-Commit", commit)
		rw.Header().Set("ETag", `"`+strings.Repeat("e", 40)+`"`)
		return true
	})
	w.sees(w.must(request("one", "org/name")), files)
}
