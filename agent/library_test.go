package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestALibraryGivesWhatAcquireWould(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("other")
	files := small(1)
	w.hub.AddRepo("org/private", files)
	w.hub.SetPrivate("org/private", "owner")
	repo := request("", "org/private").Repo
	owner := agent.Caller{Token: fetcher.NewSecret("owner")}
	m, err := w.Listing(t.Context(), owner, repo, ref("main"))
	must(t, err)
	config := m.Files[0]
	if len(m.Files) != len(files) {
		t.Errorf("%d files are listed, want %d", len(m.Files), len(files))
	}
	if _, err := w.OpenFile(t.Context(), owner, m.Revision, config); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not here: %v", err)
	}
	if n := w.contentRequests(); n != 0 {
		t.Errorf("%d requests for content", n)
	}
	w.must(request("one", "org/private", token("owner")))
	f, err := w.OpenFile(t.Context(), owner, m.Revision, config)
	must(t, err)
	must(t, f.Close())
	refs, err := w.Refs(t.Context(), owner, repo)
	if err != nil || len(refs) != 1 || refs["main"] != m.Revision.Commit {
		t.Errorf("refs are %v, %v", refs, err)
	}

	for name, who := range map[string]agent.Caller{"nobody": {}, "another": {Token: fetcher.NewSecret("other")}} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, listing := w.Listing(ctx, who, repo, ref("main"))
		_, commit := w.Listing(ctx, who, repo, m.Revision.Commit.Ref())
		_, open := w.OpenFile(ctx, who, m.Revision, config)
		_, refs := w.Refs(ctx, who, repo)
		for what, err := range map[string]error{"listing": listing, "commit": commit, "open": open, "refs": refs} {
			if !errors.Is(err, fetcher.ErrNotFound) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
	}
	w.hub.Down(true)
	if _, err := w.OpenFile(t.Context(), owner, m.Revision, config); err != nil {
		t.Errorf("with a fresh proof, the Hub being away: %v", err)
	}
	if _, err := w.Listing(t.Context(), agent.Caller{}, repo, ref("main")); !fetcher.Unreachable(err) {
		t.Errorf("nobody, the Hub being away: %v", err)
	}
}

func TestABranchThatIsGoneDoesNotCloseItsRepository(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	kept := w.hub.AddRepo("org/name", small(1))
	gone := w.hub.AddRepo("org/name", small(2))
	w.hub.SetRef("org/name", "kept", kept)
	w.hub.SetRef("org/name", "a-gone", gone)
	w.hub.SetRef("org/name", "main", kept)
	repo := request("", "org/name").Repo
	list := func(name string) {
		t.Helper()
		_, err := w.Listing(t.Context(), agent.Caller{}, repo, ref(name))
		must(t, err)
	}
	list("kept")
	list("a-gone")
	w.hub.Remove("org/name", gone)
	for range 2 {
		if refs, err := w.Refs(t.Context(), agent.Caller{}, repo); err != nil || refs["kept"].String() != kept {
			t.Errorf("refs are %v, %v", refs, err)
		}
	}
	w.hub.Remove("org/name", kept)
	if refs, err := w.Refs(t.Context(), agent.Caller{}, repo); !errors.Is(err, fetcher.ErrRevisionNotFound) {
		t.Errorf("with all of them gone: %v, %v", refs, err)
	}
}

func TestHowManyRefsAreGoneIsNotPaidInQuestions(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	gone := w.hub.AddRepo("org/name", small(1))
	repo := request("", "org/name").Repo
	for i := range 20 {
		name := fmt.Sprint("gone-", i)
		w.hub.SetRef("org/name", name, gone)
		_, err := w.Listing(t.Context(), agent.Caller{}, repo, ref(name))
		must(t, err)
	}
	w.hub.Remove("org/name", gone)
	w.hub.ResetRequests()
	if refs, err := w.Refs(t.Context(), agent.Caller{}, repo); !errors.Is(err, fetcher.ErrRevisionNotFound) {
		t.Errorf("refs are %v, %v", refs, err)
	}
	if n := len(w.hub.Requests()); n > 10 {
		t.Errorf("%d requests", n)
	}
}
