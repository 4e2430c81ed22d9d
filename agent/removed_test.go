package agent_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// TestWhatWasRemovedBeforeARepoTurnedPublicStaysClosed: an owner cleans a private
// repository, and then publishes it. What the node brought before is none of everybody's.
func TestWhatWasRemovedBeforeARepoTurnedPublicStaysClosed(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	w.hub.AddToken("owner")
	secret := map[string][]byte{"customers.safetensors": noise(9, 5000), "config.json": []byte("{}")}
	wip := w.hub.AddRepo("team/name", secret)
	w.hub.SetRef("team/name", "wip", wip)
	w.hub.SetPrivate("team/name", "owner")
	old := w.must(request("owner", "team/name", token("owner"), at("wip"))).Revision
	w.hub.AddRepo("team/name", small(2))
	w.hub.Remove("team/name", wip)
	w.hub.SetPublic("team/name")
	w.must(request("anyone", "team/name"))

	anyone := agent.Caller{}
	refs, err := w.Refs(t.Context(), anyone, old.Repo)
	if err != nil {
		t.Fatal(err)
	}
	if _, told := refs["wip"]; told {
		t.Error("anyone is told of the branch that was removed")
	}
	if _, err := w.Listing(t.Context(), anyone, old.Repo, old.Commit.Ref()); !errors.Is(err, fetcher.ErrRevisionNotFound) {
		t.Errorf("anyone asks for the commit that was removed: %v; want %v", err, fetcher.ErrRevisionNotFound)
	}
	f := storetest.File(t, "customers.safetensors", secret["customers.safetensors"], true)
	if file, err := w.OpenFile(t.Context(), anyone, old, f); err == nil {
		file.Close()
		t.Error("anyone is given a file that was removed")
	}
}
