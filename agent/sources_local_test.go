package agent_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// beside has a local Authority say that this is org/name, and open it to everybody; pvc is
// asked for the bytes before the Hub.
func (w *world) beside(commit string, files map[string][]byte, pvc *agent.Shelf) {
	models := newLocal(w.t, "models")
	models.holds("org/name", commit, files)
	w.cfg.Authorities = []fetcher.Authority{models}
	w.cfg.Open = []agent.Opening{{Authority: "models", Namespaces: []string{"*"}}}
	w.before(pvc)
}

// contentOnly has the Hub answer what asks for content alone.
func (w *world) contentOnly(_ string, rw http.ResponseWriter, r *http.Request) bool {
	if r.Host == w.hub.CDNHost() || r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/resolve/") {
		return false
	}
	rw.WriteHeader(http.StatusServiceUnavailable)
	return true
}

// A local Authority lists what it likes: the Hub's bytes for that are asked for as anybody,
// or by the pod's own token, and never by the node's.
func TestWhatALocalAuthorityListsIsNotReadFromTheHubAsTheNode(t *testing.T) {
	for name, tc := range map[string]struct {
		public bool
		token  string
		given  bool
	}{
		"what anybody may read":           {true, "", true},
		"what the pod's own token may":    {false, "owner", true},
		"what only the node's token may":  {false, "", false},
		"what the pod's own token mayn't": {false, "stranger", false},
	} {
		t.Run(name, func(t *testing.T) {
			files := small(1)
			w := newWorld(t).lend("node")
			w.hub.AddToken("stranger")
			commit := w.hub.AddRepo("org/name", files)
			if !tc.public {
				w.hub.SetPrivate("org/name", "node", "owner")
			}
			w.beside(commit, files, agent.NewShelf("pvc", without(files, other)))
			p := w.listen()
			w.start()
			asked := w.record(w.contentOnly)
			req := request("one", "org/name", of("one"), token(tc.token))
			if tc.given {
				w.sees(w.must(req), files)
				contains(t, strings.Join(p.of("one", "BallastFetched"), ""), "70 kB from hub")
			} else {
				refused := w.refused(req, fetcher.ErrNotFound)
				contains(t, refused.Error(), "pvc: ", "hub: ", other)
			}
			list := asked.take()
			if node := slices.DeleteFunc(by("node", list), func(line string) bool { return !isContent(line) }); len(node) != 0 {
				t.Errorf("the node's token read %q", node)
			}
			if !slices.ContainsFunc(list, isContent) {
				t.Error("the Hub was asked for no content: this test shows nothing")
			}
		})
	}
}

// To what a local Authority lists the Hub is a Source like the others: what it says of a
// credential is no reason to stop waiting for one that is away.
func TestADenialOfTheHubIsNoVerdictOnWhatALocalAuthorityLists(t *testing.T) {
	files := small(1)
	pvc := agent.NewShelf("pvc", files)
	pvc.Trouble(errAway)
	w := newWorld(t)
	w.beside(strings.Repeat("c", 40), files, pvc)
	p := w.listen()
	w.start()
	w.hub.AddRepo("org/name", files)
	w.hub.SetPrivate("org/name", "owner")
	stop, ended := w.acquireAside(request("one", "org/name", of("one")))
	defer stop()
	w.until("it waits", func() bool { return len(p.of("one", "BallastWaiting")) > 1 })
	pvc.Trouble(nil)
	must(t, soon(t, ended))
}

func TestWithoutAHubACallIsHeldUntilASourceIsThere(t *testing.T) {
	files := small(1)
	pvc := agent.NewShelf("pvc", files)
	pvc.Trouble(errAway)
	w := newWorld(t)
	w.beside(strings.Repeat("c", 40), files, pvc)
	w.edit = func(c *agent.Config) { c.Hub, c.Sources = nil, []fetcher.Source{pvc} }
	p := w.listen()
	w.start()
	stop, ended := w.acquireAside(request("one", "org/name", of("one")))
	defer stop()
	w.until("it waits", func() bool { return len(p.of("one", "BallastWaiting")) > 0 })
	contains(t, p.of("one", "BallastWaiting")[0], "connection refused")
	pvc.Trouble(nil)
	must(t, soon(t, ended))
	if n := len(w.hub.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestWithoutAHubWhatNoSourceHasIsRefused(t *testing.T) {
	files := small(1)
	pvc := agent.NewShelf("pvc", without(files, other))
	w := newWorld(t)
	w.beside(strings.Repeat("c", 40), files, pvc)
	w.edit = func(c *agent.Config) { c.Hub, c.Sources = nil, []fetcher.Source{pvc} }
	w.start()
	refused := w.refused(request("one", "org/name", of("one")), fetcher.ErrAbsent)
	contains(t, refused.Error(), other)
}

// No tenant's token is any good to Model Express.
func TestWhatNoSourceGivesIsTheOperatorsToMend(t *testing.T) {
	files := small(1)
	pvc, mx := agent.NewShelf("pvc", without(files, other)), agent.NewShelf("modelexpress", files)
	mx.Trouble(fetcher.ErrBadToken)
	w := newWorld(t)
	w.beside(strings.Repeat("c", 40), files, pvc)
	w.edit = func(c *agent.Config) { c.Hub, c.Sources = nil, []fetcher.Source{pvc, mx} }
	w.start()
	refused := w.refused(request("one", "org/name", of("one")), fetcher.ErrBadToken)
	contains(t, refused.Error(), other, "pvc: ", "modelexpress: ", "token is not valid", "(sources:)")
	if strings.Contains(refused.Advice, "Secret") {
		t.Errorf("the tenant is told to %s", refused.Advice)
	}
}

func TestWhatIsKeptFromTheHubNeedsAnotherSource(t *testing.T) {
	files := small(1)
	w := newWorld(t)
	w.beside(strings.Repeat("c", 40), files, agent.NewShelf("pvc", nil))
	w.cfg.Bindings = []agent.Binding{{Repos: "org/*", Authority: "models"}}
	w.edit = nil // the Hub alone
	w.start()
	w.hub.AddRepo("org/name", files)
	contains(t, w.refused(request("one", "org/name", of("one")), agent.ErrNoSource).Advice, "(sources:)")
	if n := len(w.hub.Requests()); n != 0 {
		t.Errorf("the Hub was asked %d times", n)
	}
}
