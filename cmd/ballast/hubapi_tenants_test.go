package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// weights is the content of a model's one LFS file: each repository's has its own.
func weights(repo string) string { return strings.Repeat("weights of "+repo+" ", 200) }

func filesOf(repo string) map[string][]byte {
	return map[string][]byte{"config.json": []byte("config of " + repo), "model.safetensors": []byte(weights(repo))}
}

// questions are all that hubapi can be asked about a Repo, and what their answers hold
// of it.
var questions = []struct {
	line    string
	headers []string
	holds   string
}{
	{"GET /%s/resolve/main/config.json", nil, "config of %s"},
	{"GET /%s/resolve/main/model.safetensors", nil, "weights of %s"},
	{"GET /%s/resolve/main/model.safetensors", []string{"Range: bytes=11-40"}, "%s"},
	{"GET /%s/resolve/main/model.safetensors", []string{"If-None-Match: *"}, ""},
	{"HEAD /%s/resolve/main/model.safetensors", nil, ""},
	{"HEAD /%s/resolve/main/config.json", []string{"Range: bytes=0-1"}, ""},
	{"GET /api/models/%s", nil, "model.safetensors"},
	{"GET /api/models/%s/revision/main?blobs=true", nil, "model.safetensors"},
	{"HEAD /api/models/%s/revision/main", nil, ""},
	{"GET /api/models/%s/tree/main?recursive=true&limit=1", nil, "config.json"},
	{"POST /api/models/%s/paths-info/main", nil, "config.json"},
	{"GET /api/models/%s/refs", nil, "refs/heads/main"},
	{"GET /api/models/%s/auth-check", nil, "{}"},
}

// Outcomes of a question.
const (
	served      = "served"      // with the answer
	hidden      = "hidden"      // as a repository that does not exist
	gated       = "gated"       // its conditions are to be accepted first
	badToken    = "bad token"   // the Hub knows it no longer
	unreachable = "unreachable" // the Hub has to be asked, and cannot be
)

// rows say what each token is told of each kind of repository; of what is not cached, a
// file's bytes are the one thing that is missing. kinds: public, gated, private.
var rows = []struct {
	hub    string
	kind   string
	cached bool
	want   map[string]string // by token
}{
	// What everyone may read needs no token, and none does harm.
	{"up", "public", true, map[string]string{none: served, good: served, another: served, revoked: served}},
	{"up", "public", false, map[string]string{none: served, good: served, another: served, revoked: served}},
	// That it is cached, by somebody's proof, gives nothing to anybody else.
	{"up", "gated", true, map[string]string{none: gated, good: served, another: gated, revoked: badToken}},
	{"up", "gated", false, map[string]string{none: gated, good: served, another: gated, revoked: badToken}},
	{"up", "private", true, map[string]string{none: hidden, good: served, another: hidden, revoked: badToken}},
	{"up", "private", false, map[string]string{none: hidden, good: served, another: hidden, revoked: badToken}},
	// While the Hub is away, proofs that are fresh still count, and nothing else does.
	{"down", "public", true, map[string]string{none: served, good: served, another: served, revoked: served}},
	{"down", "public", false, map[string]string{none: unreachable, good: unreachable, another: unreachable, revoked: unreachable}},
	{"down", "gated", true, map[string]string{none: unreachable, good: served, another: unreachable, revoked: unreachable}},
	{"down", "gated", false, map[string]string{none: unreachable, good: unreachable, another: unreachable, revoked: unreachable}},
	{"down", "private", true, map[string]string{none: unreachable, good: served, another: unreachable, revoked: unreachable}},
	{"down", "private", false, map[string]string{none: unreachable, good: unreachable, another: unreachable, revoked: unreachable}},
}

// repoName is a row's repository: one that is not cached is asked about in one state of
// the Hub alone, so that nothing is known of it.
func repoName(hub, kind string, cached bool) string {
	if cached {
		return "team/" + kind
	}
	return "team/" + kind + "-unseen-" + hub
}

// newMatrix makes the repositories of rows, has good and revoked cache what is cached,
// and revokes revoked.
func newMatrix(t *testing.T) *tenants {
	w := newTenants(t, func(c *agent.Config) { c.RefMaxAge = time.Nanosecond })
	for _, r := range rows {
		repo := repoName(r.hub, r.kind, r.cached)
		w.hub.AddRepo(repo, filesOf(repo))
		switch r.kind {
		case "private":
			w.hub.SetPrivate(repo, good, revoked)
		case "gated":
			w.hub.SetGated(repo, good, revoked)
		}
		if r.cached && r.hub == "up" {
			w.acquire(repo, good)
			w.acquire(repo, revoked)
		}
	}
	w.hub.RevokeToken(revoked)
	return w
}

// TestRule10OverHTTP: a tenant gets what it could have fetched itself, whatever is asked.
func TestRule10OverHTTP(t *testing.T) {
	w := newMatrix(t)
	for _, hub := range []string{"up", "down"} {
		w.hub.Down(hub == "down")
		for _, token := range []string{none, good, another, revoked} {
			var missing []reply // what is told of a repository that does not exist
			for _, q := range questions {
				missing = append(missing, w.ask(podA, token, fmt.Sprintf(q.line, "team/missing"), q.headers...))
			}
			for _, r := range rows {
				if r.hub == hub {
					w.row(hub, r.kind, r.cached, token, r.want[token], missing)
				}
			}
		}
	}
}

// row asks all questions with one token about one repository.
func (w *tenants) row(hub, kind string, cached bool, token, want string, missing []reply) {
	w.t.Helper()
	repo := repoName(hub, kind, cached)
	for i, q := range questions {
		line := fmt.Sprintf(q.line, repo)
		got := w.ask(podA, token, line, q.headers...)
		about := fmt.Sprintf("Hub %s, %s, cached: %v, token %q: %s %q", hub, kind, cached, token, line, q.headers)
		if want == served {
			w.wantServed(about, got, strings.Contains(line, "/resolve/"), cached, strings.ReplaceAll(q.holds, "%s", repo))
			continue
		}
		// The same as if there were no such repository, to the last byte. But for a gated
		// one, which the Hub tells everyone of.
		if same := got.String() == missing[i].String(); same != (want != gated) {
			w.t.Errorf("%s:\n%s\nwhere a missing one is\n%s", about, got, missing[i])
		}
		w.wantRefused(about, got, token, want)
	}
}

func (w *tenants) wantServed(about string, got reply, file, cached bool, holds string) {
	w.t.Helper()
	switch {
	case file && !cached:
		if got.status != 404 || got.head.Get("X-Error-Code") != "EntryNotCached" || got.head.Get("ETag") != "" {
			w.t.Errorf("%s: %s; want that it is not cached", about, got)
		}
	case got.status != 200 && got.status != 206 && got.status != 304, !strings.Contains(got.body, holds):
		w.t.Errorf("%s: %s; want it served, with %q", about, got, holds)
	}
}

func (w *tenants) wantRefused(about string, got reply, token, want string) {
	w.t.Helper()
	status, code := http.StatusNotFound, "RepoNotFound"
	switch {
	case want == unreachable:
		status, code = http.StatusServiceUnavailable, ""
	case want == badToken:
		status, code = http.StatusUnauthorized, ""
	case want == gated && token != none:
		status, code = http.StatusForbidden, "GatedRepo"
	case want == gated:
		status, code = http.StatusUnauthorized, "GatedRepo"
	case token == none:
		status, code = http.StatusUnauthorized, "RepoNotFound"
	}
	if got.status != status || got.head.Get("X-Error-Code") != code {
		w.t.Errorf("%s: %s; want it %s: %d %q", about, got, want, status, code)
	}
	for _, told := range []string{"ETag", "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "Content-Range", "Link", "Accept-Ranges"} {
		if got.head.Get(told) != "" {
			w.t.Errorf("%s: %s is told: %s", about, told, got)
		}
	}
}

// TestWhetherTheHubIsAskedTellsNothing: an answer that comes without asking comes sooner.
func TestWhetherTheHubIsAskedTellsNothing(t *testing.T) {
	w := newMatrix(t)
	for _, token := range []string{none, another} {
		count := map[string]int{}
		for _, repo := range []string{"team/private", "team/private-unseen-up", "team/missing"} {
			for _, line := range []string{"HEAD /%s/resolve/main/config.json", "GET /api/models/%s/refs", "GET /api/models/%s/auth-check"} {
				w.hub.ResetRequests()
				w.ask(podA, token, fmt.Sprintf(line, repo))
				count[repo] += len(w.hub.Requests())
			}
		}
		if n := count["team/missing"]; n == 0 || count["team/private"] != n || count["team/private-unseen-up"] != n {
			t.Errorf("token %q: requests to the Hub by repository: %v", token, count)
		}
	}
}

// TestADigestClaimIsNoProofOverHTTP: what is cached by its Digest is not given to
// whoever lists that Digest.
func TestADigestClaimIsNoProofOverHTTP(t *testing.T) {
	w := newTenants(t)
	secret := filesOf("victim/private")
	w.hub.AddRepo("victim/private", secret)
	w.hub.SetPrivate("victim/private", good)
	w.acquire("victim/private", good)
	claim := map[string][]byte{"loot.safetensors": secret["model.safetensors"], "loot.json": secret["config.json"]}
	w.hub.AddRepo("attacker/public", claim)
	for _, token := range []string{none, another} {
		for name := range claim {
			for _, method := range []string{"GET", "HEAD"} {
				for _, headers := range [][]string{nil, {"Range: bytes=0-9"}, {"If-None-Match: *"}, {"Range: bytes=0-0,1-1"}} {
					got := w.ask(podB, token, method+" /attacker/public/resolve/main/"+name, headers...)
					if got.status != 404 || got.head.Get("X-Error-Code") != "EntryNotCached" || got.head.Get("ETag") != "" {
						t.Errorf("%s %s %v: %s", method, name, headers, got)
					}
				}
			}
		}
	}
	w.acquire("attacker/public", none) // these bytes came through it
	if got := w.ask(podB, none, "GET /attacker/public/resolve/main/loot.json"); got.status != 200 || got.body != string(secret["config.json"]) {
		t.Errorf("what came through the repository itself: %s", got)
	}
}

// TestAStrangersTokenGoesNowhere: not to the agent, nor the Hub, nor a log.
func TestAStrangersTokenGoesNowhere(t *testing.T) {
	w := newMatrix(t)
	w.hub.ResetRequests()
	said := w.log.String()
	for _, q := range questions {
		got := w.ask(stranger, good, fmt.Sprintf(q.line, "team/private"), "X-Forwarded-For: "+podA)
		if got.status != http.StatusForbidden || got.head.Get("X-Error-Code") != "" {
			t.Errorf("%s: %s", q.line, got)
		}
	}
	if asked := w.hub.Requests(); len(asked) != 0 {
		t.Errorf("the Hub was asked %v", asked)
	}
	if more := strings.TrimPrefix(w.log.String(), said); strings.Contains(more, "private") || strings.Contains(more, "hf_") {
		t.Errorf("the log has what a stranger sent:\n%s", more)
	}
}

// TestAProofIsSharedByVolumesAndHTTP: the Hub is asked once for both, and hears the
// caller's own token.
func TestAProofIsSharedByVolumesAndHTTP(t *testing.T) {
	w := newTenants(t)
	w.hub.AddRepo("team/private", filesOf("team/private"))
	w.hub.SetPrivate("team/private", good)
	w.acquire("team/private", good)
	w.hub.ResetRequests()
	for _, q := range questions {
		w.ask(podA, good, fmt.Sprintf(q.line, "team/private"))
	}
	if asked := w.hub.Requests(); len(asked) != 0 {
		t.Errorf("after a volume's proof, the Hub was asked %v", asked)
	}
	w.hub.AddRepo("team/other", filesOf("team/other"))
	w.hub.SetPrivate("team/other", good)
	if got := w.ask(podA, good, "GET /api/models/team/other"); got.status != 200 {
		t.Fatal(got)
	}
	w.hub.ResetRequests()
	w.acquire("team/other", good)
	proofs := slices.DeleteFunc(w.hub.Requests(), func(r hubtest.Request) bool { return r.Method != http.MethodHead || !r.Auth })
	if w.ask(podA, good, "GET /team/other/resolve/main/config.json").status != 200 || len(proofs) > 1 {
		t.Errorf("after a proof over HTTP, a volume's asked %v", proofs)
	}
}

// TestAnOpeningOpensToItsNamespaceOverHTTP: whose namespace it is says the address.
func TestAnOpeningOpensToItsNamespaceOverHTTP(t *testing.T) {
	w := newTenants(t, func(c *agent.Config) {
		c.Open = []agent.Opening{{Repos: "team/*", Namespaces: []string{"team-a"}}}
		c.NodeToken = func() (fetcher.Secret, error) { return fetcher.NewSecret(good), nil }
	})
	w.hub.AddRepo("team/private", filesOf("team/private"))
	w.hub.SetPrivate("team/private", good)
	w.acquire("team/private", good)
	const line = "GET /team/private/resolve/main/config.json"
	if got := w.ask(podA, none, line); got.status != 200 || got.body != "config of team/private" {
		t.Errorf("a pod of the namespace: %s", got)
	}
	if got := w.ask(podB, none, line, "X-Forwarded-For: "+podA); got.status != 401 || got.head.Get("X-Error-Code") != "RepoNotFound" {
		t.Errorf("another's: %s", got)
	}
}
