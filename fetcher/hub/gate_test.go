package hub

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestGateOpensAfterTheResetAndNotForAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const wait = 100 * time.Second
		l, waits := limit{api, fetcher.NewSecret("a")}, map[time.Duration]bool{}
		for range 100 {
			var g gate
			g.close(l, wait)
			left := g.left(l)
			if left < wait || left > wait+wait/10 {
				t.Fatalf("it opens in %s", left)
			}
			waits[left] = true
			for _, other := range []limit{{resolvers, l.cred}, {api, fetcher.Secret{}}, {api, fetcher.NewSecret("b")}} {
				if left := g.left(other); left != 0 {
					t.Errorf("%s of another credential waits for %s", other.bucket, left)
				}
			}
		}
		if len(waits) < 50 {
			t.Errorf("100 nodes come back at %d moments", len(waits))
		}
		var g gate
		g.close(l, wait)
		left := g.left(l)
		g.close(l, wait/2)
		g.close(l, 0)
		if again := g.left(l); again != left {
			t.Errorf("a shorter wait made %s of %s", again, left)
		}
		time.Sleep(left - time.Nanosecond)
		if g.left(l) == 0 {
			t.Error("it opened early")
		}
		time.Sleep(time.Nanosecond)
		if left := g.left(l); left != 0 {
			t.Errorf("it stays closed for %s", left)
		}
		g.close(l, maxRetryAfter)
		if left := g.left(l); left != maxRetryAfter {
			t.Errorf("it stays closed for %s", left)
		}
	})
}

func TestGateKeepsNoMoreThanSoManyInMind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		secret := func(i int) limit { return limit{api, fetcher.NewSecret(fmt.Sprint(i))} }
		for i := range maxShut + 100 {
			g.close(secret(i), time.Minute)
		}
		if len(g.shut) != maxShut || g.left(secret(0)) == 0 {
			t.Errorf("%d are kept, the first for %s", len(g.shut), g.left(secret(0)))
		}
		time.Sleep(2 * time.Minute)
		g.close(secret(-1), time.Minute)
		if len(g.shut) != 1 || g.left(secret(-1)) == 0 {
			t.Errorf("%d are kept after all have passed", len(g.shut))
		}
	})
}

// asker asks a Hub for a listing (api) or a proof (resolvers).
type asker struct {
	t *testing.T
	c *Client
	h *hubtest.Hub

	commit string // of main
}

func newAsker(t *testing.T) asker {
	t.Helper()
	h := hubtest.New(t)
	commit := h.AddRepo("org/name", map[string][]byte{"a": []byte("a"), "m.bin": make([]byte, 100)})
	h.AddToken("friend")
	c, err := New(Config{Endpoint: h.URL(), TokensOverHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return asker{t, c, h, commit}
}

func (a asker) ask(bucket, token string) error {
	repo, main := revisionOf(a.t).Repo, fetcher.Ref{}
	if err := main.UnmarshalText([]byte("main")); err != nil {
		a.t.Fatal(err)
	}
	if bucket == api {
		_, err := a.c.Resolve(a.t.Context(), repo, main, fetcher.NewSecret(token))
		return err
	}
	var path fetcher.Path
	if err := path.UnmarshalText([]byte("a")); err != nil {
		a.t.Fatal(err)
	}
	_, err := a.c.Prove(a.t.Context(), repo, main, path, fetcher.NewSecret(token))
	return err
}

// once answers one request with status and headers, and the rest as the Hub does.
func (a asker) once(status int, headers ...string) {
	first := true
	a.h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !first {
			return false
		}
		first = false
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		if status != http.StatusOK {
			w.WriteHeader(status)
		}
		return status != http.StatusOK
	})
}

func TestBucketThatIsUsedUpIsNotAskedBeforeItsReset(t *testing.T) {
	for name, c := range map[string]struct {
		asked   string // the bucket of the request that is answered with ...
		status  int
		headers []string
		closed  map[string]bool // buckets
	}{
		"429":                             {api, 429, []string{"RateLimit", `"api";r=0;t=55`}, map[string]bool{api: true}},
		"429 of resolvers":                {resolvers, 429, []string{"RateLimit", `"resolvers";r=0;t=55`}, map[string]bool{resolvers: true}},
		"429 that tells only a time":      {api, 429, []string{"RateLimit", "", "Retry-After", "60"}, map[string]bool{}},
		"429 that tells nothing":          {resolvers, 429, []string{"RateLimit", ""}, map[string]bool{}},
		"429 for another bucket":          {api, 429, []string{"RateLimit", `"resolvers";r=0;t=55`}, map[string]bool{resolvers: true}},
		"429 for a bucket unheard of":     {api, 429, []string{"RateLimit", `"pages";r=0;t=55`}, map[string]bool{}},
		"429 to come again at once":       {api, 429, []string{"RateLimit", "", "Retry-After", "0"}, map[string]bool{}},
		"an answer, the last":             {api, 200, []string{"RateLimit", `"api";r=0;t=55`}, map[string]bool{api: true}},
		"an answer, the last of a window": {api, 200, []string{"RateLimit", `"api";r=0;t=0`}, map[string]bool{api: true}},
		"an answer, another's last":       {api, 200, []string{"RateLimit", `"resolvers";r=0;t=55`}, map[string]bool{resolvers: true}},
		"an answer, the last of two":      {api, 200, []string{"RateLimit", `"api";r=7;t=55, "resolvers";r=0;t=55`}, map[string]bool{resolvers: true}},
		"an answer, the last but one":     {api, 200, []string{"RateLimit", `"api";r=1;t=55`}, map[string]bool{}},
		"an answer, the last of nothing":  {api, 200, []string{"RateLimit", `"pages";r=0;t=55`}, map[string]bool{}},
	} {
		a := newAsker(t)
		a.once(c.status, c.headers...)
		var limited *fetcher.RateLimitedError
		if err := a.ask(c.asked, "friend"); errors.As(err, &limited) != (c.status == 429) || err != nil && limited == nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, bucket := range []string{api, resolvers} {
			a.h.ResetRequests()
			err := a.ask(bucket, "friend")
			if c.closed[bucket] != errors.As(err, &limited) || c.closed[bucket] != (len(a.h.Requests()) == 0) || err != nil && limited.RetryAfter <= 0 {
				t.Errorf("%s, then %s: %v, after %d requests", name, bucket, err, len(a.h.Requests()))
			}
			if err := a.ask(bucket, ""); err != nil {
				t.Errorf("%s, then %s of another credential: %v", name, bucket, err)
			}
		}
	}
}

// A mirror may pass on what its upstream says about one repository.
func TestLimitOfOneRepositoryHoldsUpNoOther(t *testing.T) {
	a := newAsker(t)
	a.h.AddRepo("org/other", map[string][]byte{"a": []byte("a")})
	a.h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "org/name") {
			return false
		}
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	var limited *fetcher.RateLimitedError
	if err := a.ask(api, ""); !errors.As(err, &limited) || limited.RetryAfter != 600*time.Second {
		t.Errorf("the one: %v", err)
	}
	other, err := fetcher.ParseRepo("org/other")
	if err != nil {
		t.Fatal(err)
	}
	main, err := fetcher.ParseRef("main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.c.Resolve(t.Context(), other, main, fetcher.Secret{}); err != nil {
		t.Errorf("the other: %v", err)
	}
}

// Where a refusal has to be asked about once more, by a GET, that may be what is limited:
// then nothing is known, and whoever could read it before is not let in for that.
func TestLimitOnSpellingARefusalOutIsALimit(t *testing.T) {
	for name, headers := range map[string]func(h http.Header, method string) (status int){
		"the HEAD was the last of its window": func(h http.Header, _ string) int {
			h.Set("RateLimit", `"resolvers";r=0;t=55`)
			return http.StatusNotFound
		},
		"the GET is one too many": func(h http.Header, method string) int {
			if method == http.MethodGet {
				return http.StatusTooManyRequests
			}
			return http.StatusNotFound
		},
	} {
		a := newAsker(t)
		a.h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "application/json") // and no X-Error-Code
			w.WriteHeader(headers(w.Header(), r.Method))
			return true
		})
		var limited *fetcher.RateLimitedError
		if err := a.ask(resolvers, "friend"); fetcher.Unreachable(err) || !errors.As(err, &limited) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a CDN says is about itself.
func TestLimitOfAnotherHostClosesNoGate(t *testing.T) {
	a := newAsker(t)
	a.h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Host != a.h.CDNHost() {
			return false
		}
		w.Header().Set("RateLimit", `"resolvers";r=0;t=55`)
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	f := a.h.Manifest("org/name")["m.bin"]
	commit, err := fetcher.ParseCommit(a.commit)
	if err != nil {
		t.Fatal(err)
	}
	o, err := a.c.Open(t.Context(), fetcher.Revision{Repo: revisionOf(t).Repo, Commit: commit}, f, fetcher.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	var limited *fetcher.RateLimitedError
	if _, err := o.ReadRange(t.Context(), 0, f.Size); !errors.As(err, &limited) || limited.RetryAfter != 56*time.Second {
		t.Errorf("the CDN: %v", err)
	}
	if err := a.ask(resolvers, ""); err != nil {
		t.Errorf("the Hub, after its CDN's 429: %v", err)
	}
}

// The real manners, in a window of a second: no request is refused by the Hub that
// could have been kept back here.
func TestAClientKeepsToTheLimitsOfTheHub(t *testing.T) {
	a := newAsker(t)
	a.h.ResetRequests()
	a.h.Limit(3, 1000, time.Second)
	answered := 0
	for deadline := time.Now().Add(20 * time.Second); answered < 4 && time.Now().Before(deadline); {
		err := a.ask(api, "")
		var limited *fetcher.RateLimitedError
		switch {
		case err == nil:
			answered++
		case errors.As(err, &limited):
			time.Sleep(limited.RetryAfter)
		default:
			t.Fatal(err)
		}
	}
	if got := a.h.Counts(); answered != 4 || got.API != 4 || got.Refused != 0 {
		t.Errorf("%d answers; %+v", answered, got)
	}
}
