package agent_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

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

func TestThoseWhoQueueLearnWhatTheOneBeforeThemWasTold(t *testing.T) {
	w := newWorld(t)
	w.cfg.RetryEvery = time.Minute
	w.start()
	var all sync.WaitGroup
	const volumes = 8
	entered := make(chan struct{}, volumes)
	w.hub.Intercept(func(rw http.ResponseWriter, _ *http.Request) bool {
		for range volumes {
			<-entered // the first question is answered when all have come
		}
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	for i := range volumes {
		all.Go(func() {
			entered <- struct{}{}
			waiting := w.waits(request(string(rune('a'+i)), "org/name"), 2*time.Second)
			contains(t, waiting.Progress, "503")
		})
	}
	all.Wait()
}

func TestAProofThatARepoIsPublicIsRenewedBeforeItEnds(t *testing.T) {
	w := newWorld(t).start()
	commit := w.hub.AddRepo("org/name", small(1))
	req := request("one", "org/name", at(commit))
	w.must(req)
	old := time.Now().Add(-13 * time.Hour)
	must(t, w.store.SetPublic(req.Repo, old))
	w.hub.ResetRequests()
	w.must(request("two", "org/name", at(commit)))
	deadline := time.After(20 * time.Second)
	for {
		rec, err := w.store.Repo(req.Repo)
		must(t, err)
		if rec.PublicAt.After(old.Add(time.Minute)) {
			break
		}
		select {
		case <-deadline:
			t.Fatal("the proof was not renewed")
		case <-time.After(10 * time.Millisecond):
		}
	}
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
	w.must(request("one", "org/name"))
	refused := w.refused(request("one", "org/other"), store.ErrPinned)
	contains(t, refused.Error(), "org/name", "unpublish")
}
