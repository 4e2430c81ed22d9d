package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

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

// The disk may be slow, and what others have recorded long: who has a proof waits for
// neither.
func TestAProofCountsWhileAnotherIsBeingRecorded(t *testing.T) {
	s := storetest.Open(t)
	a := newAccess(Config{Store: s, ProofFor: time.Hour})
	private, err1 := fetcher.ParseRepo("org/private")
	public, err2 := fetcher.ParseRepo("org/public")
	record := filepath.Join(s.Dir(), "refs", "model", "org--public.json")
	// A disk that is slow to give this record back.
	if err := errors.Join(err1, err2, os.MkdirAll(filepath.Dir(record), 0o700), unix.Mkfifo(record, 0o600)); err != nil {
		t.Fatal(err)
	}
	token, o := fetcher.NewSecret("token"), store.Origin{Repo: private}
	defer a.ask(token, private)()
	if err := a.grant(token, o, time.Now()); err != nil {
		t.Fatal(err)
	}
	defer a.ask(fetcher.Secret{}, public)()
	recorded := make(chan error, 1)
	go func() { recorded <- a.grant(fetcher.Secret{}, store.Origin{Repo: public}, time.Now()) }()
	slow, err := os.OpenFile(record, os.O_WRONLY, 0) // waits for its reader
	if err != nil {
		t.Fatal(err)
	}
	proved := make(chan bool, 1)
	go func() { proved <- a.proved(token, o, false) }()
	select {
	case ok := <-proved:
		if !ok {
			t.Error("the proof does not count")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for another's record")
	}
	if err := errors.Join(slow.Close(), <-recorded); err != nil {
		t.Error(err)
	}
}

func TestAnAnswerAboutWhoHadTheNameBeforeProvesNothing(t *testing.T) {
	s := storetest.Open(t)
	a := newAccess(Config{Store: s, ProofFor: time.Hour})
	repo, err := fetcher.ParseRepo("org/name")
	if err := errors.Join(err, s.Identify(repo, "old"), s.Identify(repo, "new")); err != nil {
		t.Fatal(err)
	}
	for _, cred := range []fetcher.Secret{{}, fetcher.NewSecret("token")} {
		defer a.ask(cred, repo)()
		if err := a.grant(cred, store.Origin{Repo: repo, ID: "old"}, time.Now()); !errors.Is(err, store.ErrReplaced) {
			t.Errorf("grant: %v, want ErrReplaced", err)
		}
	}
	if len(a.proofs) != 0 {
		t.Errorf("proofs are %v", a.proofs)
	}
}
