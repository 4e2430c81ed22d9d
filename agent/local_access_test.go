package agent

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// Of a Hub that tells no ids, too: that a Repo is public there says nothing of what came
// through a local Authority under the same name.
func TestBytesThatCameByALocalAuthorityAreNotThePublicRepos(t *testing.T) {
	s := storetest.Open(t)
	repo, _ := fetcher.ParseRepo("org/name")
	other, _ := fetcher.ParseRepo("org/other")
	local := store.Origin{Repo: repo, Authority: "models"}
	content := []byte("secret")
	f := storetest.File(t, "model", content, true)
	in, err := s.Ingest(local, f)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	err = in.WritePiece(in.Missing()[0], bytes.NewReader(content))
	if err := errors.Join(err, in.Verify(), s.Commit(t.Context(), []*store.Ingest{in}), s.SetPublic(store.Origin{Repo: repo}, time.Now())); err != nil {
		t.Fatal(err)
	}
	a := newAccess(Config{Store: s, PublicFor: time.Hour})
	for o, want := range map[store.Origin]bool{
		local: true, {Repo: repo}: false, {Repo: other}: false, {Repo: repo, Authority: "others"}: false, {Repo: other, Authority: "models"}: false,
	} {
		if may, err := a.mayUse(f.Digest, o); may != want || err != nil {
			t.Errorf("for %+v they may be used: %v, %v", o, may, err)
		}
	}
}
