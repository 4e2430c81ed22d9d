package agent_test

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// asked records who asks the Hub for what: "node GET /api/models/org/name/revision/main";
// who is "-" without a token. intercept may answer.
type asked struct {
	mu   sync.Mutex // guards list
	list []string
}

func (w *world) record(intercept func(who string, rw http.ResponseWriter, r *http.Request) bool) *asked {
	a := &asked{}
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		who := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if who == "" {
			who = "-"
		}
		if r.Host != w.hub.CDNHost() {
			a.mu.Lock()
			a.list = append(a.list, who+" "+r.Method+" "+r.URL.EscapedPath())
			a.mu.Unlock()
		}
		return intercept != nil && intercept(who, rw, r)
	})
	return a
}

// requestID is the part of a message that differs from one question to the next.
var requestID = regexp.MustCompile(` \(request [^)]*\)`)

// take returns what was recorded since, in order.
func (a *asked) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = nil
	return list
}

// by returns those of list that who asked.
func by(who string, list []string) (of []string) {
	for _, line := range list {
		if strings.HasPrefix(line, who+" ") {
			of = append(of, line)
		}
	}
	return of
}

// lend gives the agent a token of the node's.
func (w *world) lend(token string) *world {
	w.cfg.NodeToken = func() (fetcher.Secret, error) { return fetcher.NewSecret(token), nil }
	w.hub.AddToken(token)
	return w
}

func TestTheNodesTokenAsksWhatAnonymousOnesWereShown(t *testing.T) {
	w := newWorld(t).lend("node").start()
	commit := w.hub.AddRepo("org/name", map[string][]byte{"model.safetensors": noise(1, 5000), "config.json": []byte("{}")})
	asked := w.record(nil)
	w.must(request("one", "org/name"))
	list := asked.take()
	content := list[4:]
	want := []string{
		"- HEAD /org/name/resolve/main/.gitattributes", // anybody may know of it
		"node GET /api/models/org/name/revision/main",
		"node GET /api/models/org/name/tree/" + commit,
		"- HEAD /org/name/resolve/" + commit + "/model.safetensors", // the proof
	}
	if !slices.Equal(list[:4], want) {
		t.Errorf("asked %q, want %q", list[:4], want)
	}
	if len(content) == 0 || len(by("node", content)) != len(content) {
		t.Errorf("content was asked for so: %q", content)
	}
}

func TestTheNodesTokenTellsNothingOfAPrivateRepo(t *testing.T) {
	looksMissing(t, map[string]privately{
		"nobody":  {tenant: "", lent: true},
		"another": {tenant: "other", lent: true},
	})
}

func TestAPrivateRepoThatIsHereLooksLikeOneThatIsMissing(t *testing.T) {
	looksMissing(t, map[string]privately{
		"nobody":                            {tenant: "", here: true},
		"another":                           {tenant: "other", here: true},
		"another, and the node may read it": {tenant: "other", lent: true, here: true},
	})
}

// privately is a private repository: who asks about it, whether the node's account may read
// it, and whether it is here for others.
type privately struct {
	tenant     string
	lent, here bool
}

// looksMissing checks that to a namespace that has no access it is exactly like one that is
// missing: in what is said, and in what is asked.
func looksMissing(t *testing.T, cases map[string]privately) {
	for name, tc := range cases {
		w := newWorld(t)
		w.cfg.RefMaxAge = time.Nanosecond
		if tc.lent {
			w.lend("node")
		}
		w.start()
		w.hub.AddToken("other")
		commit := w.hub.AddRepo("org/private", small(1))
		w.hub.SetPrivate("org/private", "node", "owner")
		if tc.here {
			w.must(request("owner", "org/private", token("owner")))
		}
		asked := w.record(nil)
		told := map[string]string{}
		lines := map[string][]string{}
		for _, repo := range []string{"org/private", "org/missing"} {
			for _, revision := range []string{"main", commit, strings.Repeat("a", 40)} {
				refused := w.refused(request(repo+revision, repo, at(revision), token(tc.tenant)), fetcher.ErrNotFound)
				told[repo] += requestID.ReplaceAllString(strings.ReplaceAll(refused.Error(), repo, "REPO"), "") + "\n"
			}
			for _, line := range asked.take() {
				lines[repo] = append(lines[repo], strings.ReplaceAll(line, repo, "REPO"))
			}
			if who := by("node", lines[repo]); len(who) != 0 {
				t.Errorf("%s: the node's token asked %q", name, who)
			}
		}
		w.hub.Down(true)
		for _, repo := range []string{"org/private", "org/missing"} {
			for _, revision := range []string{"main", commit} {
				waiting := w.waits(request(repo+revision, repo, at(revision), token(tc.tenant)), 100*time.Millisecond)
				before, _, found := strings.Cut(waiting.Progress, revision+": ") // how a connection broke differs
				told[repo] += fmt.Sprintln(strings.ReplaceAll(before, repo, "REPO"), found)
			}
		}
		if told["org/private"] != told["org/missing"] {
			t.Errorf("%s: told %q of the private one, %q of the missing one", name, told["org/private"], told["org/missing"])
		}
		if !slices.Equal(lines["org/private"], lines["org/missing"]) {
			t.Errorf("%s: asked %q about the private one, %q about the missing one", name, lines["org/private"], lines["org/missing"])
		}
	}
}

func TestTheNodesTokenDoesNotAcceptAGatesConditions(t *testing.T) {
	w := newWorld(t).lend("node").start()
	w.hub.AddRepo("org/gated", small(1))
	w.hub.SetGated("org/gated", "node")
	w.refused(request("one", "org/gated"), fetcher.ErrGated)
	if n := w.contentRequests(); n != 0 {
		t.Errorf("%d requests for content", n)
	}
}

// A proof of an hour ago still lets a tenant have what is here (rule 10). But what has
// turned private since is not brought for it by the node's token: no commit, no listing,
// no byte.
func TestTheNodesTokenBringsNothingNewOfARepoThatTurnedPrivate(t *testing.T) {
	w := newWorld(t).lend("node")
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	first := w.hub.AddRepo("org/name", small(1))
	config, err := fetcher.NewFilter([]string{"config.json"}, nil)
	must(t, err)
	w.must(request("one", "org/name", func(r *agent.Request) { r.Filter = config }))
	next := w.hub.AddRepo("org/name", small(2))
	w.hub.SetPrivate("org/name", "node", "owner")

	for name, req := range map[string]agent.Request{
		"bytes":        request("bytes", "org/name", at(first)),
		"a commit":     request("commit", "org/name", at(next)),
		"a new commit": request("moved", "org/name"),
	} {
		must(t, w.store.SetPublic(w.origin("org/name"), time.Now().Add(-time.Hour)))
		w.hub.ResetRequests()
		asked := w.record(nil)
		w.refused(req, fetcher.ErrNotFound)
		if list := by("node", asked.take()); len(list) != 0 {
			t.Errorf("%s: the node's token asked %q", name, list)
		}
	}
}

func TestTheNodesTokenReadsOnlyAsLongAsAnybodyMay(t *testing.T) {
	w := newWorld(t).lend("node")
	w.cfg.RefMaxAge, w.cfg.ProofFor = time.Nanosecond, 100*time.Millisecond
	w.start()
	w.hub.AddRepo("org/name", small(1))
	release := w.hub.Hold("org/name", "model-00002-of-00002.safetensors")
	defer release()
	stop, ended := w.acquireAside(request("one", "org/name"))
	defer stop()
	w.until("it is on its way", func() bool { return w.flights() == 1 })
	w.hub.SetPrivate("org/name", "node")
	if err := <-ended; !errors.Is(err, fetcher.ErrNotFound) {
		t.Errorf("the download of what turned private ended with %v", err)
	}
}

func TestANodesTokenThatIsOfNoUseMakesNothingWorse(t *testing.T) {
	for name, trouble := range map[string]func(rw http.ResponseWriter){
		"revoked": func(rw http.ResponseWriter) {
			rw.Header().Set("X-Error-Message", "Invalid credentials in Authorization header")
			rw.WriteHeader(http.StatusUnauthorized)
		},
		"rate limited": func(rw http.ResponseWriter) {
			rw.Header().Set("RateLimit", `"api";r=0;t=300`)
			rw.WriteHeader(http.StatusTooManyRequests)
		},
		"of an account that may read nothing": func(rw http.ResponseWriter) {
			rw.Header().Set("X-Error-Message", "forbidden")
			rw.WriteHeader(http.StatusForbidden)
		},
		"met by a broken proxy": func(rw http.ResponseWriter) { rw.WriteHeader(http.StatusBadGateway) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).lend("node").start()
			files := small(1)
			w.hub.AddRepo("org/name", files)
			var met atomic.Int64
			w.record(func(who string, rw http.ResponseWriter, _ *http.Request) bool {
				if who == "node" {
					met.Add(1)
					trouble(rw)
				}
				return who == "node"
			})
			w.sees(w.must(request("one", "org/name")), files)
			if met.Load() == 0 {
				t.Error("the node's token was not used: this test shows nothing")
			}
		})
	}
	t.Run("unreadable", func(t *testing.T) {
		w := newWorld(t)
		w.cfg.NodeToken = func() (fetcher.Secret, error) { return fetcher.Secret{}, fmt.Errorf("no such file") }
		w.start()
		w.hub.AddRepo("org/name", small(1))
		w.must(request("one", "org/name"))
	})
}
