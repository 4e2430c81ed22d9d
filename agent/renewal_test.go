package agent_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
)

// A renewal that did not ask whose name it is does not decide it.
func TestARenewalDoesNotGiveTheNameBack(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	files := small(1)
	commit := w.hub.AddRepo("team/name", files)
	w.hub.AddToken("owner")
	w.hub.SetPrivate("team/name", "owner")
	w.must(request("owner", "team/name", token("owner")))
	old := w.origin("team/name").ID
	asked, held := make(chan struct{}, 2), make(chan struct{})
	w.hub.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && r.Header.Get("Authorization") != "" {
			asked <- struct{}{}
			<-held
		}
		return false
	})
	var ends []<-chan error
	for _, revision := range []string{"main", commit} {
		stop, ended := w.acquireAside(request("again-"+revision, "team/name", token("owner"), at(revision)))
		defer stop()
		ends = append(ends, ended)
	}
	<-asked
	w.hub.Recreate("team/name", files) // a stranger's, public, the same commit
	w.must(request("anyone", "team/name"))
	now := w.origin("team/name").ID
	w.hub.Intercept(nil)
	close(held)
	for _, ended := range ends {
		must(t, <-ended)
	}
	if got := w.origin("team/name").ID; got != now || now == old {
		t.Errorf("the name is %s's again (old %s, new %s)", got, old, now)
	}
	if rec, err := w.store.Repo(w.origin("team/name").Repo); err != nil || rec.PublicAt.IsZero() {
		t.Errorf("and the new one is no longer known to be public (%v)", err)
	}
}

func TestHitsDoNotHammerAHubInTrouble(t *testing.T) {
	w := newWorld(t).start()
	commit := w.hub.AddRepo("org/name", small(1))
	w.must(request("one", "org/name"))
	must(t, w.store.SetPublic(w.origin("org/name"), time.Now().Add(-13*time.Hour))) // to be renewed
	w.hub.Intercept(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	m, err := w.Listing(t.Context(), agent.Caller{}, request("", "org/name").Repo, ref(commit))
	must(t, err)
	w.until("the renewal was asked", func() bool { return len(w.hub.Requests()) > 0 })
	w.hub.ResetRequests()
	for range 50 {
		f, err := w.OpenFile(t.Context(), agent.Caller{}, m.Revision, m.Files[0])
		must(t, err)
		f.Close()
		time.Sleep(2 * time.Millisecond)
	}
	if n := len(w.hub.Requests()); n > 5 {
		t.Errorf("%d requests for 50 hits", n)
	}
}
