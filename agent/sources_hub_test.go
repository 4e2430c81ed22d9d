package agent_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// The limit is on a credential, and no other Source asks for one.
func TestALimitOfTheHubHoldsUpNothingThatAnotherSourceHas(t *testing.T) {
	files := small(1)
	pvc := agent.NewShelf("pvc", files)
	pvc.Trouble(errAway)
	w := newWorld(t).before(pvc)
	p := w.listen()
	w.start()
	w.hub.AddRepo("org/name", files)
	asked := w.record(usedUp("-"))
	stop, ended := w.acquireAside(request("one", "org/name", of("one")))
	defer stop()
	w.until("the limit is met", func() bool { return len(p.of("one", "BallastWaiting")) > 1 })
	contains(t, p.of("one", "BallastWaiting")[0], "rate limited", "connection refused")
	met := len(asked.take())
	pvc.Trouble(nil)
	must(t, soon(t, ended))
	if more := asked.take(); met == 0 || slices.ContainsFunc(more, isContent) {
		t.Errorf("while the credential rests the Hub was asked %q", more)
	}
}

func TestADenialOfTheHubTurnsAwayThoughAnotherSourceIsAway(t *testing.T) {
	files := small(1)
	pvc := agent.NewShelf("pvc", files)
	pvc.Trouble(errAway)
	w := newWorld(t).before(pvc).start()
	w.hub.AddRepo("org/private", files)
	w.hub.SetPrivate("org/private", "owner")
	asked := w.record(func(who string, rw http.ResponseWriter, r *http.Request) bool {
		if who != "owner" || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/resolve/") {
			return false
		}
		w.hub.RevokeToken("owner") // between the proof and the bytes
		return false
	})
	refused := w.refused(request("one", "org/private", token("owner")), fetcher.ErrBadToken)
	contains(t, refused.Error(), "token is not valid", "pvc: ", "connection refused")
	list := asked.take()
	if i := slices.IndexFunc(list, isContent); i < 0 || slices.ContainsFunc(list[i:], func(line string) bool { return !isContent(line) }) {
		t.Errorf("the Hub was asked %q: for a proof once more, or for no content", list)
	}
}

// Model Express has tokens of its own: what it says of those is no verdict on a tenant's.
func TestAnotherSourcesDenialIsNoVerdictOnATenant(t *testing.T) {
	files := small(1)
	mx := agent.NewShelf("modelexpress", files)
	mx.Trouble(fetcher.ErrBadToken)
	w := newWorld(t).before(mx)
	p := w.listen()
	w.start()
	w.hub.AddRepo("org/private", files)
	w.hub.SetPrivate("org/private", "owner")
	asked := w.record(contentAway)
	stop, ended := w.acquireAside(request("one", "org/private", token("owner"), of("one")))
	defer stop()
	w.until("it is told", func() bool { return len(p.of("one", "BallastWaiting")) > 0 })
	asked.take()
	w.until("it is tried again", func() bool { return len(p.of("one", "BallastWaiting")) > 1 })
	if list := asked.take(); slices.ContainsFunc(list, func(line string) bool { return !isContent(line) }) {
		t.Errorf("the tenant's proof was withdrawn: the Hub was asked %q", list)
	}
	contains(t, p.of("one", "BallastWaiting")[0], "modelexpress", "token is not valid", "503")
	if told := p.of("one", "BallastSourceDenied"); len(told) != 1 {
		t.Errorf("told %q", told)
	}
	w.record(nil)
	must(t, soon(t, ended))
}

// What an operator opened needs no proof: so that nobody may ask the Hub for its bytes any
// more stops nothing that another Source gives, now or soon.
func TestWhatIsOpenedComesFromAnotherSourceThoughTheHubTurnsAway(t *testing.T) {
	for name, tc := range map[string]struct {
		trouble error
		given   bool
	}{
		"at once":     {nil, true},
		"in a moment": {errAway, true},
		"never":       {fetcher.ErrAbsent, false},
	} {
		t.Run(name, func(t *testing.T) {
			files := small(1)
			pvc := agent.NewShelf("pvc", files)
			pvc.Trouble(tc.trouble)
			w := newWorld(t).lend("node").before(pvc)
			p := w.listen()
			w.cfg.Open = []agent.Opening{{Repos: "org/private", Namespaces: []string{"default"}}}
			w.start()
			w.hub.AddRepo("org/private", files)
			w.hub.SetPrivate("org/private", "node")
			w.record(func(_ string, rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/resolve/") {
					return false
				}
				rw.Header().Set("X-Error-Message", "forbidden")
				rw.WriteHeader(http.StatusForbidden)
				return true
			})
			stop, ended := w.acquireAside(request("one", "org/private", of("one")))
			defer stop()
			if tc.trouble == errAway {
				w.until("it waits", func() bool { return len(p.of("one", "BallastWaiting")) > 0 })
				pvc.Trouble(nil)
			}
			err := soon(t, ended)
			if tc.given {
				must(t, err)
				return
			}
			if !fetcher.Denied(err) {
				t.Errorf("the call ended with %v", err)
			}
			contains(t, err.Error(), "pvc: ", "hub: ")
		})
	}
}

// Everything is here but the Hub: no credential, and no look at who may read, is needed.
func TestWhatAnotherSourceHasNeedsNoHub(t *testing.T) {
	for name, tenant := range map[string]struct {
		token  string
		opened bool
	}{
		"anonymously":            {"", false},
		"with a token":           {"owner", false},
		"of an opened namespace": {"", true},
	} {
		for _, lent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, node's token %t", name, lent), func(t *testing.T) {
				files := small(1)
				w := newWorld(t).before(agent.NewShelf("pvc", files))
				w.cfg.RefMaxAge = time.Nanosecond
				if lent {
					w.lend("node")
				}
				if tenant.opened {
					w.cfg.Open = []agent.Opening{{Repos: "org/name", Namespaces: []string{"default"}}}
				}
				w.start()
				w.hub.AddToken("owner")
				commit := w.hub.AddRepo("org/name", files)
				if tenant.token != "" {
					w.hub.SetPrivate("org/name", "owner")
				}
				req := request("one", "org/name", of("one"), token(tenant.token), at(commit))
				_, err := w.Listing(t.Context(), agent.Caller{Token: req.Token, Pod: req.Pod}, req.Repo, req.Ref)
				must(t, err)
				hang := make(chan struct{})
				defer close(hang)
				asked := w.record(func(string, http.ResponseWriter, *http.Request) bool { <-hang; return true })
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				m, err := w.Acquire(ctx, req)
				must(t, err)
				w.sees(m, files)
				if list := asked.take(); len(list) != 0 {
					t.Errorf("the Hub was asked %q", list)
				}
			})
		}
	}
}

// A look at the Hub for the node's token is its trouble, not that of those who can do without.
func TestTheNodesTokenHoldsUpNothingThatComesAnonymously(t *testing.T) {
	files := small(1)
	w := newWorld(t).lend("node").before(agent.NewShelf("pvc", without(files, other)))
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	commit := w.hub.AddRepo("org/name", files)
	req := request("one", "org/name", at(commit))
	_, err := w.Listing(t.Context(), agent.Caller{}, req.Repo, req.Ref)
	must(t, err)
	asked := w.record(func(who string, rw http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
		return r.Method == http.MethodHead
	})
	w.sees(w.must(req), files)
	list := asked.take()
	if len(by("node", list)) != 0 || !slices.ContainsFunc(list, isContent) {
		t.Errorf("the Hub was asked %q", list)
	}
}
