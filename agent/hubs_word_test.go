package agent_test

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// byModels has "models" be a local Authority, and the first of the Sources.
func (w *world) byModels(open agent.Opening) *local {
	models := newLocal(w.t, "models")
	w.cfg.Authorities = []fetcher.Authority{models}
	w.cfg.Open = []agent.Opening{open}
	w.edit = func(c *agent.Config) { c.Sources = append([]fetcher.Source{models}, c.Sources...) }
	return models
}

var modelsOpened = agent.Opening{Authority: "models", Namespaces: []string{"*"}}

// A rule that opens a repository opens what a local Authority says of it, also of a commit
// that the Hub never listed here.
func TestAPinnedCommitOfAnOpenedRepositoryIsGivenByALocalAuthority(t *testing.T) {
	for name, edit := range map[string]func(*agent.Config){
		"no hub":   func(c *agent.Config) { c.Hub, c.Sources = nil, c.Sources[:1] },
		"hub away": func(*agent.Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			files := small(1)
			w := newWorld(t)
			models := w.byModels(agent.Opening{Repos: "org/*", Namespaces: []string{"*"}})
			models.holds("org/name", strings.Repeat("c", 40), files)
			first := w.edit
			w.edit = func(c *agent.Config) { first(c); edit(c) }
			w.start()
			w.hub.Down(true)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			m, err := w.Acquire(ctx, request("one", "org/name", of("one"), at(strings.Repeat("c", 40))))
			must(t, err)
			w.sees(m, files)
		})
	}
}

func TestTheFirstPodByALocalAuthorityDoesNotWait(t *testing.T) {
	files := small(1)
	w := newWorld(t)
	models := w.byModels(agent.Opening{Repos: "org/*", Namespaces: []string{"*"}})
	models.holds("org/name", strings.Repeat("c", 40), files)
	p := w.listen()
	w.start()
	w.hub.Down(true)
	w.must(request("one", "org/name", of("one")))
	if told := p.of("one", "BallastWaiting"); len(told) > 0 {
		t.Errorf("told %q", told)
	}
}

// What the refusal advises has to help.
func TestBindingARepositoryEndsItsDispute(t *testing.T) {
	files := small(1)
	w := newWorld(t)
	models := w.byModels(modelsOpened)
	w.hub.AddRepo("org/name", small(2)) // a stranger's
	models.holds("org/name", strings.Repeat("c", 40), files)
	w.start()
	w.hub.Down(true)
	w.must(request("one", "org/name", of("one")))
	w.hub.Down(false)
	w.must(request("two", "org/name", of("two"), token("x")))
	w.until("it is disputed", func() bool { return w.counters("ballast_authority_disputes_total")["models"] == 1 })
	w.cfg.Bindings = []agent.Binding{{Repos: "org/*", Authority: "models"}}
	w.restart()
	w.sees(w.must(request("three", "org/name", of("three"))), files)
}

// private has the Hub show org/name to owner alone.
func (w *world) private(files map[string][]byte) (commit string) {
	commit = w.hub.AddRepo("org/name", files)
	w.hub.SetPrivate("org/name", "owner")
	return commit
}

// Once the Hub said what a commit is, no local Authority says anything else of it.
func TestWhatTheHubConfirmedOfACommitIsNotListedOtherwiseInItsAbsence(t *testing.T) {
	files := small(1)
	evil := maps.Clone(files)
	evil[other] = noise(666, len(files[other]))
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Millisecond
	w.cfg.ForgetAfter = 50 * time.Millisecond // and compare as often
	models := w.byModels(modelsOpened)
	commit := w.hub.AddRepo("org/name", files)
	models.holds("org/name", commit, files)
	w.start()
	w.hub.Down(true)
	w.must(request("one", "org/name", of("one")))
	w.hub.Down(false)
	w.until("it is compared", func() bool {
		rec, err := w.store.RepoBy(w.origin("org/name").Repo, "models")
		must(t, err)
		return rec.Listed[commit].Equal != ""
	})
	w.hub.Down(true)
	models.holds("org/name", commit, evil)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if m, err := w.Acquire(ctx, request("two", "org/name", of("two"))); err == nil {
		w.sees(m, files)
	}
}

// The Hub's listing, which is here, decides as soon as the bytes are here, and before they
// are mounted.
func TestBytesThatContradictAListingThatIsHereAreNotMounted(t *testing.T) {
	files := small(1)
	w := newWorld(t)
	models := w.byModels(modelsOpened)
	commit := w.private(files)
	w.start()
	w.must(request("owner", "org/name", of("owner"), token("owner")))
	w.hub.Down(true)

	evil := maps.Clone(files)
	evil["config.json"] = []byte(strings.ReplaceAll(string(files["config.json"]), "seed", "evil"))
	models.holds("org/name", commit, evil)
	c, err := fetcher.ParseCommit(commit)
	must(t, err)
	m := storetest.Manifest(t, w.origin("org/name").Repo, c, evil, func(path string) bool { return path == "config.json" || len(evil[path]) > 1024 })
	m.Authority = "models"
	models.mu.Lock()
	models.lists[m.Revision] = m
	for _, f := range m.Files {
		models.bytes[f.Digest] = evil[f.Path.String()]
	}
	models.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if m, err := w.Acquire(ctx, request("two", "org/name", of("two"))); err == nil {
		w.sees(m, files)
	}
}

// One repository of which the Hub makes trouble keeps no other from being compared.
func TestARepositoryThatTheHubCannotShowHoldsUpNoOthersComparison(t *testing.T) {
	w := newWorld(t)
	w.cfg.ForgetAfter = 50 * time.Millisecond // and compare as often
	models := w.byModels(modelsOpened)
	for _, repo := range []string{"org/a", "org/b"} {
		w.hub.AddRepo(repo, small(2))
		models.holds(repo, strings.Repeat("c", 40), small(1))
	}
	w.start()
	w.hub.Down(true)
	w.must(request("a", "org/a", of("a")))
	w.must(request("b", "org/b", of("b")))
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "org/a") {
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	})
	w.hub.Down(false)
	limit := time.Now().Add(5 * time.Second)
	for w.counters("ballast_authority_disputes_total")["models"] == 0 {
		if time.Now().After(limit) {
			t.Fatal("org/b was not compared in 100 rounds, though the Hub answers about it")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A Flight that cannot end is of a listing that is not the Authority's any more.
func TestAFlightOfAnOldListingHoldsUpNobody(t *testing.T) {
	files := small(1)
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Millisecond
	models := newLocal(t, "models")
	w.cfg.Authorities = []fetcher.Authority{models}
	w.cfg.Open = []agent.Opening{modelsOpened}
	away := agent.NewShelf("away", nil)
	away.Trouble(errAway)
	w.edit = func(c *agent.Config) { c.Hub, c.Sources = nil, []fetcher.Source{models, away} }
	commit := strings.Repeat("c", 40)
	models.holds("org/name", commit, small(7))
	models.mu.Lock()
	clear(models.bytes) // a shared cache that is being rewritten
	models.mu.Unlock()
	w.start()
	w.waits(request("one", "org/name", of("one")), 300*time.Millisecond)
	models.holds("org/name", commit, files)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	m, err := w.Acquire(ctx, request("one", "org/name", of("one")))
	must(t, err)
	w.sees(m, files)
}

// How the Hub's listing differs is told to whom the local one was opened: the Digest of a
// private file is not.
func TestADisputeTellsNothingOfAPrivateFile(t *testing.T) {
	files := small(1)
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Millisecond
	models := w.byModels(modelsOpened)
	commit := w.private(files)
	evil := maps.Clone(files)
	evil[other] = noise(666, 5000)
	models.holds("org/name", commit, evil)
	p := w.listen()
	w.start()
	w.hub.Down(true)
	w.must(request("one", "org/name", of("one")))
	w.hub.Down(false)
	w.must(request("owner", "org/name", of("owner"), token("owner")))
	w.until("it is disputed", func() bool { return w.counters("ballast_authority_disputes_total")["models"] == 1 })
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := w.Acquire(ctx, request("two", "org/name", of("two")))
	if err == nil {
		t.Fatal("given")
	}
	secret := w.hub.Manifest("org/name")[other].Digest.String()
	told := err.Error() + strings.Join(p.of("two", "BallastDisputed"), " ")
	if strings.Contains(told, secret) {
		t.Errorf("whom the Hub shows nothing of it is told %q", told)
	}
}

// A name is the Hub's in any case of its letters.
func TestABoundNameIsBoundInAnyCase(t *testing.T) {
	w := newWorld(t)
	models := w.byModels(modelsOpened)
	models.holds("team/name", strings.Repeat("c", 40), small(1))
	w.cfg.Bindings = []agent.Binding{{Repos: "team/*", Authority: "models"}}
	w.start()
	w.hub.AddRepo("Team/name", small(2)) // a stranger's
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := w.Acquire(ctx, request("one", "Team/name", of("one")))
	if err == nil || len(w.hub.Requests()) > 0 {
		t.Errorf("%d requests to the Hub; %v", len(w.hub.Requests()), err)
	}
}

// The Hub answers again: a new pod is given its word.
func TestADisputeEndsTheStandIn(t *testing.T) {
	w := newWorld(t)
	w.cfg.ForgetAfter = 50 * time.Millisecond
	models := w.byModels(modelsOpened)
	w.hub.AddRepo("org/name", small(2))
	models.holds("org/name", strings.Repeat("c", 40), small(1))
	w.start()
	w.hub.Down(true)
	w.must(request("one", "org/name", of("one")))
	w.hub.Down(false)
	w.until("it is disputed", func() bool { return w.counters("ballast_authority_disputes_total")["models"] == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	m, err := w.Acquire(ctx, request("two", "org/name", of("two")))
	must(t, err)
	w.sees(m, small(2))
}

// Who is let to nothing does not have the Hub asked again for who is.
func TestWhoIsLetToNothingLeavesAStandInAlone(t *testing.T) {
	w := newWorld(t)
	models := w.byModels(agent.Opening{Authority: "models", Namespaces: []string{"default"}})
	models.holds("org/name", strings.Repeat("c", 40), small(1))
	w.start()
	w.hub.AddRepo("org/name", small(1))
	asked := w.record(func(_ string, rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	w.must(request("one", "org/name", of("one")))
	w.waits(request("stranger", "org/name", of("stranger"), func(r *agent.Request) { r.Pod.Namespace = "elsewhere" }), 300*time.Millisecond)
	asked.take()
	w.must(request("two", "org/name", of("two")))
	if list := asked.take(); len(list) > 0 {
		t.Errorf("the Hub was asked %q within RefMaxAge of standing in for it", list)
	}
}

// What a Ref is, too, is the Hub's to say: its last word on that is here.
func TestARefThatTheHubResolvedIsNotAnotherCommitInItsAbsence(t *testing.T) {
	old, now := small(1), small(2)
	w := newWorld(t)
	models := w.byModels(modelsOpened)
	proposed := w.hub.AddRepo("org/name", old) // as a stranger's pull request is a commit of the repository
	w.private(now)
	models.holds("org/name", proposed, old)
	w.start()
	w.sees(w.must(request("owner", "org/name", of("owner"), token("owner"))), now)
	w.hub.Down(true)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if m, err := w.Acquire(ctx, request("two", "org/name", of("two"))); err == nil {
		w.sees(m, now)
	}
}
