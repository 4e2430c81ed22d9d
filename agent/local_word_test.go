package agent_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// One whose own token the Hub accepts is given the Hub's word, though a moment ago the local
// Authority stood in for another.
func TestALocalAuthorityStandsInForThoseAloneWhomTheHubTurnedAway(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l).start()
	w.hub.AddRepo("org/name", small(1))
	w.hub.SetPrivate("org/name", "owner")
	l.holds("org/name", commitAll('a'), small(2))
	w.sees(w.must(request("one", "org/name", in("team"))), small(2))
	w.hub.ResetRequests()
	l.take()
	w.sees(w.must(request("two", "org/name", in("team"))), small(2))
	if list := l.take(); len(list) != 0 || len(w.hub.Requests()) != 0 {
		t.Errorf("asked %q and %+v a moment later", list, w.hub.Requests())
	}
	w.sees(w.must(request("three", "org/name", in("team"), token("owner"))), small(1))
}

// A stranger who registers an internal name gives his own files to who asks the Hub, and gains
// nothing of what is known under that name here.
func TestAStrangerWhoRegistersAnInternalNameGainsNothing(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	w.cfg.ForgetAfter = 20 * time.Millisecond
	w.cfg.Bindings = []agent.Binding{{Repos: "bound/*", Authority: "models"}}
	w.start()
	secret := small(1)
	for _, repo := range []string{"bound/model", "unbound/model"} {
		l.holds(repo, commitAll('a'), secret)
		w.sees(w.must(request("before-"+repo, repo, in("team"))), secret)
	}
	w.hub.ResetRequests()
	claims := map[string][]byte{"model.bin": secret["onnx/decoder/model.bin"], "evil.py": []byte("evil")}
	for _, repo := range []string{"bound/model", "unbound/model"} {
		w.hub.AddRepo(repo, claims)
	}
	// Bound: nobody is given his files, and nobody asks him.
	w.sees(w.must(request("after", "bound/model", in("team"))), secret)
	w.refused(request("closed", "bound/model", in("other")), fetcher.ErrNotFound)
	// Unbound: the Hub's word counts, and opens none of what is here by the other.
	w.sees(w.must(request("his", "unbound/model", in("other"))), claims)
	if w.contentRequests() == 0 {
		t.Error("bytes that he claims were not asked of him")
	}
	w.refused(request("internal", "unbound/model", in("other"), at(commitAll('a'))), fetcher.ErrRevisionNotFound)
	caller := agent.Caller{Pod: agent.Pod{Namespace: "other"}}
	refs, err := w.Refs(t.Context(), caller, request("", "unbound/model").Repo)
	must(t, err)
	for name, commit := range refs {
		if commit.String() == commitAll('a') {
			t.Errorf("%s is shown to be the internal commit", name)
		}
	}
	w.until("it is disputed", func() bool { return w.disputes() == 1 })
	time.Sleep(100 * time.Millisecond) // some ticks more
	for _, r := range w.hub.Requests() {
		if strings.Contains(r.Path, "bound/") && !strings.Contains(r.Path, "unbound/") {
			t.Errorf("the Hub was asked about a bound repository: %+v", r)
		}
	}
}

// A View is what it was; who asks later is given what is listed later.
func TestACommitThatIsListedAnewIsAnotherView(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.Down(true)
	l.holds("org/name", commitAll('a'), small(1))
	first := w.must(request("one", "org/name", in("team")))
	l.holds("org/name", commitAll('a'), small(2))
	w.sees(w.must(request("two", "org/name", in("team"))), small(2))
	w.sees(first, small(1))
	again := w.must(request("one", "org/name", in("team")))
	if again.View != first.View {
		t.Errorf("the pod that had %s is given %s", first.View, again.View)
	}
}

func TestALocalAuthorityIsAskedOnceAMinuteAndItsLastWordHoldsWhileItIsAway(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	w.cfg.Bindings = []agent.Binding{{Repos: "org/*", Authority: "models"}}
	w.start()
	files := small(1)
	l.holds("org/name", commitAll('a'), files)
	w.must(request("one", "org/name", in("team")))
	l.take()
	w.must(request("two", "org/name", in("team")))
	w.must(request("three", "org/name", in("team"), at(commitAll('a'))))
	if list := l.take(); len(list) != 0 {
		t.Errorf("it was asked %q", list)
	}
	w.cfg.RefMaxAge = time.Nanosecond
	w.restart()
	l.fails(&fetcher.UnreachableError{Err: errors.New("the share is gone")})
	m := w.must(request("four", "org/name", in("team")))
	w.sees(m, files)
	contains(t, m.Notice, "models could not be reached", "which main was at")
	w.waits(request("five", "org/other", in("team")), 200*time.Millisecond)
	l.fails(nil)
	w.refused(request("six", "org/other", in("team")), fetcher.ErrNotFound)
	w.refused(request("seven", "org/name", in("team"), at("v2")), fetcher.ErrRevisionNotFound)
}

// What the Hub turned away is not had by the back door of a rule that opens another's word.
func TestAPinOfTheHubsIsNotKeptByALocalAuthoritysRule(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	w.cfg.ProofFor, w.cfg.RefMaxAge = time.Nanosecond, time.Nanosecond
	w.start()
	w.hub.AddRepo("org/name", small(1))
	w.hub.SetPrivate("org/name", "owner")
	l.holds("org/name", commitAll('a'), small(2))
	req := request("one", "org/name", in("team"), token("owner"))
	w.sees(w.must(req), small(1))
	w.hub.RevokeToken("owner")
	w.refused(req, fetcher.ErrBadToken)
	w.sees(w.must(request("two", "org/name", in("team"), token("owner"), at(commitAll('a')))), small(2))
}

func TestWithoutAWordOfAnybodyItIsSaidWhatWouldHelp(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l).start()
	refused := w.refused(request("one", "org/none", in("other")), fetcher.ErrNotFound)
	contains(t, refused.Error(), "not opened to this namespace: what models may know", "ballast manifest", "authority: true", "open:", "HF_TOKEN")
	refused = w.refused(request("two", "org/none", in("team")), fetcher.ErrNotFound)
	contains(t, refused.Error(), "not known to models", "ballast manifest")
	w.hub.Down(true)
	waiting := w.waits(request("three", "org/none", in("other")), 200*time.Millisecond)
	contains(t, waiting.Progress, "not opened to this namespace")
}

// The Hub comes back while a download by a local Authority's word is under way: what that
// brought is not brought again for the Hub's.
func TestTheHubThatComesBackDuringADownloadIsGivenWhatCameMeanwhile(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l).start()
	files := small(1)
	commit := w.hub.AddRepo("org/name", files)
	l.holds("org/name", commit, files)
	w.hub.Down(true)
	release := l.hold()
	stop, ended := w.acquireAside(request("one", "org/name", in("team")))
	defer stop()
	w.until("it is under way", func() bool { return w.flights() == 1 })
	w.hub.Down(false)
	w.sees(w.must(request("anybody", "org/name", in("other"), at(commit), func(r *agent.Request) {
		r.Filter, _ = fetcher.NewFilter([]string{"config.json"}, nil)
	})), map[string][]byte{"config.json": files["config.json"]})
	w.hub.ResetRequests()
	release()
	must(t, soon(t, ended))
	if n := w.contentRequests(); n > 0 || l.given["onnx/decoder/model.bin"] != 1 {
		t.Errorf("bytes that came meanwhile were asked for: %d times, and %v", n, l.given)
	}
	f := w.hub.Manifest("org/name")["onnx/decoder/model.bin"]
	if !w.store.CameThrough(f.Digest, w.origin("org/name")) || !w.store.CameThrough(f.Digest, store.Origin{Repo: request("", "org/name").Repo, Authority: "models"}) {
		t.Errorf("the bytes came through %v", w.store.Origins(f.Digest))
	}
}

// A rule that opens a Repo opens what the Hub knows of it as well: that this is nothing is no
// reason to wait, nor to ask twice.
func TestAnOpenedCommitOfWhichTheHubSaidNothingIsALocalAuthoritysAtOnce(t *testing.T) {
	for _, hub := range []string{"down", "absent"} {
		t.Run(hub, func(t *testing.T) {
			l := newLocal(t, "models")
			w := newWorld(t).with(l).opening("org/*", "team")
			with := w.edit
			w.edit = func(cfg *agent.Config) {
				if with(cfg); hub == "absent" {
					cfg.Hub, cfg.Sources = nil, cfg.Sources[:1]
				}
			}
			w.cfg.RetryEvery = time.Hour // a try that fails is seen
			events := w.listen()
			w.start()
			w.hub.Down(true)
			files := small(1)
			l.holds("org/name", commitAll('a'), files)
			for volume, revision := range map[string]string{"one": "main", "two": commitAll('a')} {
				w.sees(w.must(request(volume, "org/name", at(revision), func(r *agent.Request) {
					r.Pod = agent.Pod{Namespace: "team", Name: volume, UID: volume}
				})), files)
				if told := events.of(volume, "BallastWaiting"); len(told) != 0 {
					t.Errorf("%s was told %q", volume, told)
				}
			}
			caller := agent.Caller{Pod: agent.Pod{Namespace: "team"}}
			m, err := w.Listing(t.Context(), caller, request("", "org/name").Repo, ref(commitAll('a')))
			must(t, err)
			f, err := w.OpenFile(t.Context(), caller, m.Revision, m.Files[0])
			must(t, err)
			f.Close()
		})
	}
}
