package agent

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// Anybody may invent tokens, as many as he likes.
func TestNothingIsKeptOfATokenThatWasTurnedAway(t *testing.T) {
	a := newAccess(Config{Store: storetest.Open(t)})
	repo, err := fetcher.ParseRepo("org/name")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		token := fetcher.NewSecret(fmt.Sprint("invented ", i))
		answered := a.ask(token, repo)
		if err := a.withdraw(token, repo); err != nil {
			t.Fatal(err)
		}
		answered()
	}
	if len(a.asking) != 0 || len(a.proofs) != 0 {
		t.Errorf("%d tokens and %d proofs are kept", len(a.asking), len(a.proofs))
	}
}

// Of two questions about the same, the one that was asked before the denial proves
// nothing, whichever is answered last; the other does.
func TestADenialOverrulesWhatWasAskedBeforeIt(t *testing.T) {
	s := storetest.Open(t)
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(Config{Store: s, ProofFor: time.Hour})
		repo, err := fetcher.ParseRepo("org/name")
		if err != nil {
			t.Fatal(err)
		}
		token, o := fetcher.NewSecret("token"), store.Origin{Repo: repo}
		first := a.ask(token, repo)
		asked := time.Now()
		second := a.ask(token, repo)
		if err := a.withdraw(token, repo); err != nil {
			t.Fatal(err)
		}
		second()
		if err := a.grant(token, o, asked); !errors.Is(err, errWithdrawn) || a.proved(token, o, false) {
			t.Errorf("asked before the denial: %v, want errWithdrawn", err)
		}
		time.Sleep(time.Second)
		if err := a.grant(token, o, time.Now()); err != nil || !a.proved(token, o, false) {
			t.Errorf("asked after the denial: %v", err)
		}
		first()
		if len(a.asking) != 0 {
			t.Errorf("%d questions are kept", len(a.asking))
		}
	})
}
