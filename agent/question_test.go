package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// late is an Authority that answers once release is closed.
type late struct {
	stuck
	asked   *atomic.Int64
	release chan struct{}
}

func (l late) Resolve(ctx context.Context, repo fetcher.Repo, ref fetcher.Ref, cred fetcher.Secret) (fetcher.Resolution, error) {
	l.asked.Add(1)
	select {
	case <-l.release:
		return l.stuck.Resolve(ctx, repo, ref, cred)
	case <-ctx.Done():
		return fetcher.Resolution{}, ctx.Err()
	}
}

// crowded runs an agent for f that has been asked, on behalf of a namespace, more than may
// be at once, by those who have gone away since.
func crowded(t *testing.T, namespace string, f func(t *testing.T, a *Agent, far late, pods *told)) {
	s := storetest.Open(t)
	synctest.Test(t, func(t *testing.T) {
		path, _ := fetcher.ParsePath("model.bin")
		digest, _ := fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))
		far := late{stuck{fetcher.File{Path: path, Size: 10, Digest: digest}}, new(atomic.Int64), make(chan struct{})}
		pods := &told{}
		a, stop := runOn(t, s, far, func(c *Config) { c.Pods = pods })
		defer stop()
		for i := range questionsANamespace + 8 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			go list(ctx, a, namespace, i)
			synctest.Wait() // so that it is the last who wait
		}
		time.Sleep(2 * time.Second)
		if got := far.asked.Load(); got != questionsANamespace {
			t.Errorf("the Authority is asked %d questions at once, want %d", got, questionsANamespace)
		}
		f(t, a, far, pods)
	})
}

// list lists the n-th of many Repos for a namespace.
func list(ctx context.Context, a *Agent, namespace string, n int) error {
	_, err := a.Listing(ctx, Caller{Pod: Pod{Namespace: namespace}}, nthRepo(n), mainRef())
	return err
}

func nthRepo(n int) fetcher.Repo {
	repo, err := fetcher.ParseRepo(fmt.Sprint("org/name", n))
	if err != nil {
		panic(err)
	}
	return repo
}

func mainRef() fetcher.Ref {
	ref, err := fetcher.ParseRef("main")
	if err != nil {
		panic(err)
	}
	return ref
}

func TestOneNamespacesQuestionsAreBoundedThoughWhoAskedIsGone(t *testing.T) {
	crowded(t, "crowd", func(t *testing.T, a *Agent, far late, pods *told) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := list(ctx, a, "crowd", 1000); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Listing: %v, want the context's end", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := a.Acquire(ctx, Request{
			Volume: store.Volume{ID: "v", Target: "/t"}, Pod: Pod{Namespace: "crowd", Name: "pod", UID: "uid"},
			Repo: nthRepo(1000), Ref: mainRef(), Layout: store.Snapshot,
		})
		const says = "org/name1000@main: waits for 32 other questions of this namespace to stuck"
		if waiting := new(*WaitingError); !errors.As(err, waiting) || (*waiting).Progress != says {
			t.Errorf("Acquire: %v, want it to wait and say %q", err, says)
		}
		if len(pods.events) != 1 || !strings.HasSuffix(pods.events[0], says) {
			t.Errorf("its pod was told %q", pods.events)
		}
		if got := far.asked.Load(); got != questionsANamespace {
			t.Errorf("the Authority is asked %d questions at once", got)
		}
	})
}

func TestAFullNamespaceHoldsUpNoOtherNorWhoAsksTheSame(t *testing.T) {
	crowded(t, "crowd", func(t *testing.T, a *Agent, far late, _ *told) {
		answers := make(chan error, 3)
		go func() { answers <- list(t.Context(), a, "other", 1000) }()
		go func() { answers <- list(t.Context(), a, "crowd", 1000) }() // shares that one
		go func() { answers <- list(t.Context(), a, "crowd", 0) }()    // and one of its own
		synctest.Wait()
		if got := far.asked.Load(); got != questionsANamespace+1 {
			t.Errorf("the Authority is asked %d questions at once, want those of the crowd and one more", got)
		}
		close(far.release)
		for range 3 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestWhoWaitsForAPlaceAsksWhenThereIsOne(t *testing.T) {
	crowded(t, "crowd", func(t *testing.T, a *Agent, far late, _ *told) {
		const waiting = 2 * questionsANamespace
		answers := make(chan error, waiting)
		for n := range waiting {
			go func() { answers <- list(t.Context(), a, "crowd", 1000+n) }()
		}
		synctest.Wait()
		close(far.release)
		for range waiting {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.places) != 0 || len(a.questions) != 0 {
			t.Errorf("%d namespaces and %d questions are kept that nobody needs", len(a.places), len(a.questions))
		}
	})
}

func TestARenewalForWhichThereIsNoPlaceIsLeftOut(t *testing.T) {
	crowded(t, "", func(t *testing.T, a *Agent, far late, _ *told) {
		began := time.Now()
		a.renew(query{repo: nthRepo(1000), ref: mainRef()})
		synctest.Wait()
		if got := far.asked.Load(); got != questionsANamespace || time.Since(began) > 0 {
			t.Errorf("the Authority is asked %d questions at once, and renew took %s", got, time.Since(began))
		}
	})
}

func TestNothingIsKeptOfARenewalOnceAnotherMayBegin(t *testing.T) {
	crowded(t, "crowd", func(t *testing.T, a *Agent, far late, _ *told) {
		for n := range 100 {
			a.renew(query{repo: nthRepo(n), ref: mainRef()})
		}
		time.Sleep(a.cfg.RefMaxAge + time.Minute) // Run drops it
		synctest.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.renewals) != 0 {
			t.Errorf("%d are kept", len(a.renewals))
		}
	})
}
