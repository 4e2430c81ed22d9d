package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// stuck is a Source and an Authority of one public file that never comes.
type stuck struct{ file fetcher.File }

func (stuck) Name() string { return "stuck" }

func (s stuck) Resolve(_ context.Context, _ fetcher.Repo, ref fetcher.Ref, _ fetcher.Secret) (fetcher.Resolution, error) {
	if commit, pinned := ref.Commit(); pinned {
		return fetcher.Resolution{Commit: commit}, nil
	}
	commit, err := fetcher.ParseCommit(strings.Repeat("a", 40))
	return fetcher.Resolution{Commit: commit}, err
}

func (s stuck) Manifest(_ context.Context, rev fetcher.Revision, _ fetcher.Secret) (*fetcher.Manifest, error) {
	return fetcher.NewManifest(rev, "stuck", []fetcher.File{s.file})
}

func (s stuck) Prove(context.Context, fetcher.Repo, fetcher.Ref, fetcher.Path, fetcher.Secret) (fetcher.Proof, error) {
	return fetcher.Proof{}, nil
}

func (s stuck) Open(context.Context, fetcher.Revision, fetcher.File, fetcher.Secret) (fetcher.Object, error) {
	return s, nil
}

func (s stuck) ReadRange(ctx context.Context, _, _ int64) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, &fetcher.UnreachableError{Err: context.Cause(ctx)}
}

func (stuck) Close() error { return nil }

// runOn runs an agent on s that asks far, until stop is called.
func runOn(t *testing.T, s *store.Store, far interface {
	fetcher.Source
	fetcher.Hub
}, edits ...func(*Config)) (a *Agent, stop func()) {
	engine, err := fetcher.NewEngine(fetcher.EngineConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Store: s, Hub: far, Sources: []fetcher.Source{far}, Engine: engine, Log: zap.NewNop(), RetryEvery: time.Hour}
	for _, edit := range edits {
		edit(&cfg)
	}
	a, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	return a, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestAVolumeThatStopsCallingIsForgottenAndItsFlightEnds(t *testing.T) {
	s := storetest.Open(t)
	synctest.Test(t, func(t *testing.T) {
		path, _ := fetcher.ParsePath("model.bin")
		digest, _ := fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))
		far := stuck{fetcher.File{Path: path, Size: 10, Digest: digest}}
		a, stop := runOn(t, s, far)

		repo, _ := fetcher.ParseRepo("org/name")
		ref, _ := fetcher.ParseRef("main")
		req := Request{Volume: store.Volume{ID: "v", Target: "/t"}, Repo: repo, Ref: ref, Layout: store.Snapshot}
		flights := func() int {
			a.mu.Lock()
			defer a.mu.Unlock()
			return len(a.flights)
		}
		call := func(d time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			var waiting *WaitingError
			if _, err := a.Acquire(ctx, req); !errors.As(err, &waiting) {
				t.Fatalf("Acquire: %v, want a WaitingError", err)
			}
		}
		// kubelet's calls, and its longest silence between them.
		for range 3 {
			call(118 * time.Second)
			time.Sleep(122 * time.Second)
			if flights() != 1 {
				t.Fatal("the flight ended in one of kubelet's silences")
			}
		}
		time.Sleep(10*time.Minute + 31*time.Second)
		synctest.Wait()
		if flights() != 0 {
			t.Error("the flight goes on though its last volume has not called for ten minutes")
		}
		call(time.Second) // a new one starts from what is on disk
		stop()
	})
}

// told is a Pods that only listens.
type told struct{ events []string }

func (*told) UserNamespace(context.Context, Pod) (bool, error) { return false, nil }
func (*told) IsDeleting(string) bool                           { return false }
func (l *told) Tell(p Pod, reason, message string, warning bool) {
	l.events = append(l.events, fmt.Sprintf("%s %s %t: %s", p.Name, reason, warning, message))
}

func TestPodIsToldHowFarItsSnapshotIsWhileItsCallIsHeld(t *testing.T) {
	s := storetest.Open(t)
	synctest.Test(t, func(t *testing.T) {
		path, _ := fetcher.ParsePath("model.bin")
		digest, _ := fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))
		listener := &told{}
		a, stop := runOn(t, s, stuck{fetcher.File{Path: path, Size: 10, Digest: digest}}, func(c *Config) { c.Pods = listener })
		repo, _ := fetcher.ParseRepo("org/name")
		ref, _ := fetcher.ParseRef("main")
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		_, err := a.Acquire(ctx, Request{Volume: store.Volume{ID: "v", Target: "/t"}, Repo: repo, Ref: ref, Layout: store.Snapshot,
			Pod: Pod{Namespace: "default", Name: "waits", UID: "uid"}})
		var waiting *WaitingError
		if !errors.As(err, &waiting) {
			t.Fatalf("Acquire: %v, want a WaitingError", err)
		}
		stop()
		want := []string{
			"waits BallastFetching false: org/name@aaaaaaa: 0% of 10 B, nothing has come from stuck for 10s",
			"waits BallastFetching false: org/name@aaaaaaa: 0% of 10 B, nothing has come from stuck for 20s",
		}
		if !slices.Equal(listener.events, want) {
			t.Errorf("told %q; want %q", listener.events, want)
		}
	})
}

// slow is stuck, but for an Authority that answers when it is told to.
type slow struct {
	stuck
	asked  chan struct{}
	answer chan error
}

func (s slow) Resolve(context.Context, fetcher.Repo, fetcher.Ref, fetcher.Secret) (fetcher.Resolution, error) {
	s.asked <- struct{}{}
	return fetcher.Resolution{}, <-s.answer
}

func TestThoseWhoAskTheSameShareOneAnswer(t *testing.T) {
	s := storetest.Open(t)
	synctest.Test(t, func(t *testing.T) {
		far := slow{asked: make(chan struct{}, 8), answer: make(chan error)}
		a, stop := runOn(t, s, far)
		repo, _ := fetcher.ParseRepo("org/name")
		ref, _ := fetcher.ParseRef("main")
		answers := make(chan error, 8)
		for i := range 8 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := a.Acquire(ctx, Request{Volume: store.Volume{ID: string(rune('a' + i)), Target: "/t"}, Repo: repo, Ref: ref, Layout: store.Snapshot})
				answers <- err
			}()
		}
		synctest.Wait()
		far.answer <- &fetcher.UnreachableError{Err: errors.New("503 at this address")}
		for range 8 {
			if err := <-answers; !strings.Contains(err.Error(), "503 at this address") {
				t.Errorf("one of those who asked was told %q", err)
			}
		}
		if got := len(far.asked); got != 1 {
			t.Errorf("the Authority was asked %d times, want once for all", got)
		}
		stop()
	})
}

// far is an Authority that answers as it is told to.
type far struct {
	stuck
	prove func() (fetcher.Proof, error)
	list  func()
}

func (f far) Prove(context.Context, fetcher.Repo, fetcher.Ref, fetcher.Path, fetcher.Secret) (fetcher.Proof, error) {
	return f.prove()
}

func (f far) Manifest(ctx context.Context, rev fetcher.Revision, cred fetcher.Secret) (*fetcher.Manifest, error) {
	f.list()
	return f.stuck.Manifest(ctx, rev, cred)
}

// A proof is as old as the question: what was withdrawn while a long listing was being
// answered stays withdrawn.
func TestASlowAnswerDoesNotOverruleALaterDenial(t *testing.T) {
	s := storetest.Open(t)
	synctest.Test(t, func(t *testing.T) {
		path, _ := fetcher.ParsePath("model.bin")
		digest, _ := fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))
		moved, _ := fetcher.ParseCommit(strings.Repeat("b", 40))
		var proof fetcher.Proof // by default what Resolve says
		listing := time.Duration(0)
		hub := far{
			stuck: stuck{fetcher.File{Path: path, Size: 10, Digest: digest}},
			prove: func() (fetcher.Proof, error) { return proof, nil },
			list:  func() { time.Sleep(listing) }, // of the bubble's clock
		}
		a, stop := runOn(t, s, hub)
		repo, _ := fetcher.ParseRepo("org/name")
		ref, _ := fetcher.ParseRef("main")
		acquire := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			_, err := a.Acquire(ctx, Request{Volume: store.Volume{ID: "v", Target: "/t"}, Repo: repo, Ref: ref, Layout: store.Snapshot})
			return err
		}
		var waiting *WaitingError
		if err := acquire(time.Second); !errors.As(err, &waiting) || waiting.Total == 0 {
			t.Fatalf("at first it is public: %v", err)
		}
		time.Sleep(2 * time.Minute)
		proof.Commit, listing = moved, time.Minute // the Ref has moved
		ended := make(chan error)
		go func() { ended <- acquire(2 * time.Minute) }()
		time.Sleep(30 * time.Second)
		if err := a.access.withdraw(fetcher.Secret{}, repo); err != nil { // another's question
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, fetcher.ErrNotFound) {
			t.Errorf("the slow one was let through: %v", err)
		}
		if rec, err := s.Repo(repo); err != nil || !rec.PublicAt.IsZero() {
			t.Errorf("the repository counts as public since %v (%v)", rec.PublicAt, err)
		}
		stop()
	})
}

func TestAQuestionEndsAtLast(t *testing.T) {
	s := storetest.Open(t)
	synctest.Test(t, func(t *testing.T) {
		hub := slowly{}
		a, stop := runOn(t, s, hub)
		repo, _ := fetcher.ParseRepo("org/name")
		ref, _ := fetcher.ParseRef("main")
		ctx, cancel := context.WithTimeout(t.Context(), longestAnswer+time.Minute)
		defer cancel()
		_, err := a.Acquire(ctx, Request{Volume: store.Volume{ID: "v", Target: "/t"}, Repo: repo, Ref: ref, Layout: store.Snapshot})
		if err == nil || !strings.Contains(err.Error(), "did not answer about org/name@main within 10m0s") {
			t.Errorf("the wait ended with %v", err)
		}
		stop()
	})
}

// slowly is an Authority that never answers.
type slowly struct{ stuck }

func (slowly) Resolve(ctx context.Context, _ fetcher.Repo, _ fetcher.Ref, _ fetcher.Secret) (fetcher.Resolution, error) {
	<-ctx.Done()
	return fetcher.Resolution{}, ctx.Err()
}
