package agent_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// in puts the request's pod into a namespace.
func in(namespace string) func(*agent.Request) {
	return func(r *agent.Request) { r.Pod.Namespace = namespace }
}

// opening gives the agent a rule, and a token of the node's.
func (w *world) opening(repos string, namespaces ...string) *world {
	w.cfg.Open = append(w.cfg.Open, agent.Opening{Repos: repos, Namespaces: namespaces})
	return w
}

func TestAnOpeningIsForItsNamespacesAlone(t *testing.T) {
	w := newWorld(t).lend("node").opening("org/priv*", "team-a", "team-b").opening("datasets/org/exact", "team-b").start()
	files := small(1)
	for _, repo := range []string{"org/private", "org/other", "datasets/org/private", "datasets/org/exact"} {
		w.hub.AddRepo(repo, files)
		w.hub.SetPrivate(repo, "node")
	}
	for _, tc := range []struct {
		namespace, repo string
		open            bool
	}{
		{"team-a", "org/private", true},
		{"team-b", "org/private", true},
		{"team-c", "org/private", false},
		{"team", "org/private", false},
		{"", "org/private", false}, // the command line
		{"team-a", "org/other", false},
		{"team-a", "datasets/org/private", false},
		{"team-a", "datasets/org/exact", false},
		{"team-b", "datasets/org/exact", true},
	} {
		req := request(tc.namespace+"-"+tc.repo, tc.repo, in(tc.namespace))
		if tc.open {
			w.sees(w.must(req), files)
		} else {
			w.refused(req, fetcher.ErrNotFound)
		}
	}
	// Now everything is here, and it makes no difference.
	w.refused(request("again", "org/private", in("team-c")), fetcher.ErrNotFound)
}

func TestAnOpenedRepoIsAskedForAsTheTenantThenAsTheNode(t *testing.T) {
	w := newWorld(t).lend("node").opening("org/*", "team").start()
	w.hub.AddRepo("org/private", small(1))
	w.hub.SetPrivate("org/private", "node", "own")
	asked := w.record(nil)
	w.must(request("own", "org/private", in("team"), token("own")))
	if list := asked.take(); len(by("own", list)) != len(list) {
		t.Errorf("with a token that works, asked %q", list)
	}
	w.must(request("hit", "org/private", in("team")))
	if list := asked.take(); len(list) != 0 {
		t.Errorf("on a hit, asked %q", list)
	}
	commit := w.hub.AddRepo("org/private", small(2))
	w.must(request("bad", "org/private", in("team"), token("bad"), at(commit)))
	if list := asked.take(); len(by("node", list)) == 0 || len(by("-", list)) != 0 {
		t.Errorf("with a token that does not work, asked %q", list)
	}
}

func TestAnOpenedRepoIsServedAsKnownWhenNobodyMayReadIt(t *testing.T) {
	w := newWorld(t).lend("node").opening("org/*", "team")
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	files := small(1)
	w.hub.AddRepo("org/private", files)
	w.hub.SetPrivate("org/private", "node")
	w.must(request("one", "org/private", in("team")))

	w.hub.RevokeToken("node")
	m := w.must(request("two", "org/private", in("team")))
	w.sees(m, files)
	contains(t, m.Notice, "does not let this node read it", "org/private@")
	w.hub.Down(true)
	m = w.must(request("three", "org/private", in("team")))
	contains(t, m.Notice, "could not be reached")
	w.waits(request("other", "org/private", in("other")), 200*time.Millisecond)
}

// The Repo was public once, and by that proof everybody may have what is here. What the
// node's token brings for an opened namespace is not for everybody, whatever the order,
// and also when the Hub is away and old proofs count.
func TestWhatTheNodeBringsForAnOpenedNamespaceIsNobodyElses(t *testing.T) {
	for name, ago := range map[string]time.Duration{"fresh": time.Hour, "aged": 25 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).lend("node").opening("org/*", "team").start()
			first := w.hub.AddRepo("org/name", small(1))
			config, err := fetcher.NewFilter([]string{"config.json"}, nil)
			must(t, err)
			w.must(request("one", "org/name", at(first), func(r *agent.Request) { r.Filter = config }))
			next := w.hub.AddRepo("org/name", small(2))
			w.hub.SetPrivate("org/name", "node")
			for what, commit := range map[string]string{"bytes": first, "a commit": next} {
				must(t, w.store.SetPublic(w.origin("org/name"), time.Now().Add(-ago)))
				w.must(request(what, "org/name", at(commit), in("team")))
				w.hub.Down(true)
				waiting := w.waits(request("other", "org/name", at(commit)), 200*time.Millisecond)
				if waiting.Total != 0 {
					t.Errorf("%s: progress was shown to one who has no access: %+v", what, waiting)
				}
				w.hub.Down(false)
			}
			w.refused(request("other", "org/name"), fetcher.ErrNotFound)
		})
	}
}

// As long as nobody can tell whether it is still everybody's, nothing new of it is brought.
func TestTheNodeWaitsForTheAnswerWhetherAnOpenedRepoIsStillPublic(t *testing.T) {
	for name, ago := range map[string]time.Duration{"fresh": time.Hour, "aged": 25 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).lend("node").opening("org/*", "team").start()
			w.hub.AddRepo("org/name", small(1))
			w.must(request("one", "org/name"))
			next := w.hub.AddRepo("org/name", small(2))
			w.hub.SetPrivate("org/name", "node")
			must(t, w.store.SetPublic(w.origin("org/name"), time.Now().Add(-ago)))
			asked := w.record(func(who string, rw http.ResponseWriter, _ *http.Request) bool {
				if who == "-" {
					rw.WriteHeader(http.StatusServiceUnavailable)
				}
				return who == "-"
			})
			w.waits(request("two", "org/name", at(next), in("team")), 300*time.Millisecond)
			if list := by("node", asked.take()); len(list) != 0 {
				t.Errorf("the node's token asked %q", list)
			}
		})
	}
}

func TestARuleThatCannotBeMeantIsRefused(t *testing.T) {
	w := newWorld(t).start()
	open := func(o ...agent.Opening) func(*agent.Config) { return func(c *agent.Config) { c.Open = o } }
	bind := func(b ...agent.Binding) func(*agent.Config) { return func(c *agent.Config) { c.Bindings = b } }
	named := func(names ...string) func(*agent.Config) {
		return func(c *agent.Config) {
			c.Authorities = nil
			for _, name := range names {
				c.Authorities = append(c.Authorities, &local{name: name})
			}
		}
	}
	all := []string{"*"}
	for what, edit := range map[string]func(*agent.Config){
		"opens nothing":               open(agent.Opening{Namespaces: []string{"a"}}),
		"no pattern":                  open(agent.Opening{Repos: "[", Namespaces: []string{"a"}}),
		"no namespace":                open(agent.Opening{Repos: "org/*"}),
		"an empty namespace":          open(agent.Opening{Repos: "org/*", Namespaces: []string{""}}),
		"both":                        open(agent.Opening{Repos: "org/*", Authority: "models", Namespaces: all}),
		"opens an unknown authority":  open(agent.Opening{Authority: "other", Namespaces: all}),
		"opens the Hub":               open(agent.Opening{Authority: "hub", Namespaces: all}),
		"binds to an unknown one":     bind(agent.Binding{Repos: "team/*", Authority: "other"}),
		"binds to none":               bind(agent.Binding{Repos: "team/*"}),
		"binds nothing":               bind(agent.Binding{Authority: "models"}),
		"binds by no pattern":         bind(agent.Binding{Repos: "[", Authority: "models"}),
		"two of a name":               named("models", "models"),
		"one called as the Hub is":    named("hub"),
		"a name that is no file's":    named("../x"),
		"a name that is too long":     named(strings.Repeat("x", 33)),
		"neither a Hub nor any other": func(c *agent.Config) { c.Hub, c.Authorities = nil, nil },
	} {
		cfg := agent.Config{
			Store: w.store, Hub: nothing{}, Sources: []fetcher.Source{nothing{}}, Engine: &fetcher.Engine{}, Log: zap.NewNop(),
			Authorities: []fetcher.Authority{&local{name: "models"}},
		}
		if _, err := agent.New(cfg); err != nil {
			t.Fatal(err)
		}
		edit(&cfg)
		if _, err := agent.New(cfg); err == nil {
			t.Errorf("%s: it was taken", what)
		}
	}
}

type nothing struct {
	fetcher.Hub
	fetcher.Source
}

func (nothing) Name() string { return "nothing" }
