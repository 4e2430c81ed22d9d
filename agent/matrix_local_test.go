package agent_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// Rules 1 and 10 of the design where a local Authority knows a Repo, cell by cell: for a Repo
// that is bound to it or not; while the Hub has a Repo of that name which everybody may read
// (up), cannot be reached (down), turns the caller away (denies), or is none (absent); for a
// pod of a namespace to which the local Authority is opened or not; with the View of what it
// says here already (hit) or not (miss).
type localCell struct{ bound, hub, opened, state string }

// What may come of a request, beside what matrix_test.go has.
const (
	givenLocal = "given what the local authority says"
	givenStale = "given what the local authority says, and told that the Hub has no word"
)

var localRules = []struct {
	why                string
	bound, hub, opened []string
	want               string
	hubAsked           bool
}{
	{"a bound Repo is a matter of its Authority alone", is("bound"), nil, is("opened"), givenLocal, false},
	{"and is nobody's to whom that is not opened", is("bound"), nil, is("closed"), hidden, false},
	{"a local Authority never beats the Hub", is("unbound"), is("up"), nil, given, true},
	{"it stands in for one that is away", is("unbound"), is("down"), is("opened"), givenStale, false},
	{"for nobody else", is("unbound"), is("down"), is("closed"), blind, false},
	{"private or missing is no word", is("unbound"), is("denies"), is("opened"), givenStale, true},
	{"for anybody else it is one", is("unbound"), is("denies"), is("closed"), hidden, true},
	{"without a Hub it has the word", is("unbound"), is("absent"), is("opened"), givenLocal, false},
	{"for those to whom it is opened", is("unbound"), is("absent"), is("closed"), hidden, false},
}

func TestLocalAuthorities(t *testing.T) {
	for _, bound := range []string{"bound", "unbound"} {
		for _, hub := range []string{"up", "down", "denies", "absent"} {
			for _, opened := range []string{"opened", "closed"} {
				for _, state := range []string{"hit", "miss"} {
					c := localCell{bound, hub, opened, state}
					t.Run(fmt.Sprint(c), func(t *testing.T) { t.Parallel(); c.run(t) })
				}
			}
		}
	}
}

// run acquires main and the commit that it is.
func (c localCell) run(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	if c.bound == "bound" {
		w.cfg.Bindings = []agent.Binding{{Repos: "team/*", Authority: "models"}}
	}
	with := w.edit
	w.edit = func(cfg *agent.Config) {
		if with(cfg); c.hub == "absent" {
			cfg.Hub, cfg.Sources = nil, cfg.Sources[:1]
		}
	}
	ours, theirs := small(1), small(50)
	l.holds("team/model", commitAll('a'), ours)
	w.hub.AddRepo("team/model", theirs)
	w.hub.AddToken("secret")
	w.start()
	if c.state == "hit" {
		w.hub.Down(true)
		w.sees(w.must(request("first", "team/model", in("team"))), ours)
		w.hub.Down(false)
		w.restart() // nothing is fresh but what is on record
	}
	switch c.hub {
	case "down":
		w.hub.Down(true)
	case "denies":
		w.hub.SetPrivate("team/model", "owner")
	}
	namespace := map[string]string{"opened": "team", "closed": "other"}[c.opened]
	l.take()
	w.hub.ResetRequests()
	req := request("pod", "team/model", in(namespace), token("secret"))
	var want string
	asked := false
	for _, r := range localRules {
		if covers(r.bound, c.bound) && covers(r.hub, c.hub) && covers(r.opened, c.opened) {
			want, asked = r.want, r.hubAsked
			t.Log(r.why)
		}
	}
	switch want {
	case given:
		w.sees(w.must(req), theirs)
	case givenLocal, givenStale:
		m := w.must(req)
		w.sees(m, ours)
		if (m.Notice != "") != (want == givenStale) {
			t.Errorf("told %q", m.Notice)
		}
	case hidden:
		refused := w.refused(req, fetcher.ErrNotFound)
		none := w.refused(request("none", "team/none", in(namespace), token("secret")), fetcher.ErrNotFound)
		if got, want := normal(refused.Error()), normal(none.Error()); got != want {
			t.Errorf("told %q, and of a repository that nobody has %q", got, want)
		}
	case blind:
		if waiting := w.waits(req, 300*time.Millisecond); waiting.Total != 0 {
			t.Errorf("progress was shown: %+v", waiting)
		}
	default:
		t.Fatal("no rule covers it")
	}
	if list := l.take(); len(list) != 0 && (c.opened == "closed" || want == given) {
		t.Errorf("the local authority was asked %q", list)
	}
	if n := len(w.hub.Requests()); (n > 0) != asked {
		t.Errorf("the Hub was asked %d times: %+v", n, w.hub.Requests())
	}
	_, err := w.Listing(t.Context(), agent.Caller{Pod: req.Pod}, req.Repo, ref(commitAll('a')))
	if mayHave := want == givenLocal || want == givenStale; (err == nil) != mayHave {
		t.Errorf("the listing of what the local authority knows: %v", err)
	}
	if c.opened == "closed" && len(l.take()) != 0 {
		t.Error("the local authority was asked for a listing")
	}
	if c.bound == "bound" && len(w.hub.Requests()) > 0 {
		t.Errorf("the Hub was asked about a bound repository: %+v", w.hub.Requests())
	}
}

// normal is text without the name of the repository, and of the request.
func normal(text string) string {
	text = strings.NewReplacer("team/model", "REPO", "team/none", "REPO").Replace(text)
	return requestID.ReplaceAllString(text, "")
}

func covers(values []string, value string) bool {
	return values == nil || slices.Contains(values, value)
}

// The rest of rule 10: what else a caller learns it learns of nothing too.
func TestWhoIsOpenedNothingLearnsNothingOfALocalAuthority(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	with := w.edit
	w.edit = func(cfg *agent.Config) { with(cfg); cfg.Hub, cfg.Sources = nil, cfg.Sources[:1] }
	w.start()
	files := small(1)
	l.holds("team/model", commitAll('a'), files)
	opened, closed := agent.Caller{Pod: agent.Pod{Namespace: "team"}}, agent.Caller{Pod: agent.Pod{Namespace: "other"}}
	req := request("first", "team/model", in("team"))
	w.sees(w.must(req), files)

	m, err := w.Listing(t.Context(), opened, req.Repo, req.Ref)
	must(t, err)
	refs, err := w.Refs(t.Context(), opened, req.Repo)
	if err != nil || len(refs) != 1 || refs["main"] != m.Revision.Commit {
		t.Errorf("refs are %v, %v", refs, err)
	}
	f, err := w.OpenFile(t.Context(), opened, m.Revision, m.Files[0])
	must(t, err)
	f.Close()

	l.take()
	_, listing := w.Listing(t.Context(), closed, req.Repo, req.Ref)
	_, shown := w.Refs(t.Context(), closed, req.Repo)
	_, file := w.OpenFile(t.Context(), closed, m.Revision, m.Files[0])
	for what, err := range map[string]error{"Listing": listing, "Refs": shown, "OpenFile": file} {
		if !errors.Is(err, fetcher.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, who := range []agent.Caller{closed, {}} {
		if _, err := w.Listing(t.Context(), who, req.Repo, req.Ref); !errors.Is(err, fetcher.ErrNotFound) {
			t.Errorf("%+v was let through: %v", who, err)
		}
	}
	if list := l.take(); len(list) != 0 {
		t.Errorf("the local authority was asked %q", list)
	}
}
