package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// limited is a private Repo, whose bytes each token may ask for from a time on.
type limited struct {
	stuck
	from  map[string]time.Time
	asked chan string // who, and when since the start
	start time.Time
}

func (l limited) Prove(_ context.Context, _ fetcher.Repo, _ fetcher.Ref, _ fetcher.Path, cred fetcher.Secret) (fetcher.Proof, error) {
	if cred.IsZero() {
		return fetcher.Proof{}, fetcher.ErrNotFound
	}
	return fetcher.Proof{}, nil
}

func (l limited) Open(_ context.Context, _ fetcher.Revision, _ fetcher.File, cred fetcher.Secret) (fetcher.Object, error) {
	l.asked <- cred.Reveal() + " " + time.Since(l.start).String()
	if wait := time.Until(l.from[cred.Reveal()]); wait > 0 {
		return nil, &fetcher.RateLimitedError{RetryAfter: wait, Err: errors.New("429")}
	}
	return l.stuck, nil
}

// Each credential is asked with once its own limit ends, and not before; a Volume that joins
// meanwhile is not held up.
func TestAFlightWaitsForTheFirstOfItsCredentialsToComeBack(t *testing.T) {
	s := storetest.Open(t)
	synctest.Test(t, func(t *testing.T) {
		path, _ := fetcher.ParsePath("model.bin")
		digest, _ := fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))
		now := time.Now()
		l := limited{
			stuck: stuck{fetcher.File{Path: path, Size: 10, Digest: digest}}, asked: make(chan string, 100), start: now,
			from: map[string]time.Time{"late": now.Add(20 * time.Minute), "soon": now.Add(5 * time.Minute), "never": now.Add(24 * time.Hour)},
		}
		a, stop := runOn(t, s, l, func(c *Config) { c.RetryEvery = time.Second })
		defer stop()
		repo, _ := fetcher.ParseRepo("org/private")
		ref, _ := fetcher.ParseRef("main")
		for _, who := range slices.Sorted(maps.Keys(l.from)) {
			go a.Acquire(t.Context(), Request{Volume: store.Volume{ID: who, Target: "/t"}, Repo: repo, Ref: ref, Layout: store.Snapshot, Token: fetcher.NewSecret(who)})
			synctest.Wait()
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		var got []string
		for len(l.asked) > 0 {
			got = append(got, <-l.asked)
		}
		if want := []string{"late 0s", "never 0s", "soon 0s", "soon 5m0s"}; !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
	})
}
