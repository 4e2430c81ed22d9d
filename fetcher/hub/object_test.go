package hub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

const big = "model.safetensors"

func TestWholeFileTakesOneRequestToTheHub(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.SetPrivate("org/name", "friend")
	c := newClient(t, h.URL())
	for path, content := range sample {
		if len(content) == 0 {
			continue
		}
		h.ResetRequests()
		wantBytes(t, open(t, h, c, rev, path, "friend"), 0, int64(len(content)), content)
		want := 1
		if h.Manifest("org/name")[path].Digest.Algorithm() == fetcher.SHA256 {
			want = 2 // the CDN
		}
		got := h.Requests()
		if len(got) != want || got[0].Method != "GET" || got[0].Range != "" || !got[0].Auth {
			t.Errorf("%s took %+v", path, got)
		}
	}
}

func TestRangesResolveOnceAndWithoutARange(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.SetPrivate("org/name", "friend")
	h.ResetRequests()
	o := open(t, h, newClient(t, h.URL()), rev, big, "friend")
	var wg sync.WaitGroup
	for i := range int64(10) {
		wg.Go(func() { wantBytes(t, o, i*10_000, 10_000, sample[big]) })
	}
	wg.Wait()
	resolves := 0
	for _, r := range h.Requests() {
		if r.Kind == "resolve" {
			resolves++
			if r.Range != "" || !r.Auth {
				t.Errorf("resolved with %+v", r)
			}
		} else if r.Auth || r.Range == "" {
			t.Errorf("the CDN got %+v", r)
		}
	}
	if resolves != 1 {
		t.Errorf("resolved %d times", resolves)
	}
}

func TestRegularFileIsReadInRangesFromTheHubItself(t *testing.T) {
	for _, hop := range []bool{false, true} {
		h := hubtest.New(t)
		h.ResolveCache(hop)
		rev := serve(t, h, "org/name")
		h.SetPrivate("org/name", "friend")
		o := open(t, h, newClient(t, h.URL()), rev, "README.md", "friend")
		wantBytes(t, o, 2, 5, sample["README.md"])
		wantBytes(t, o, 0, 1, sample["README.md"])
	}
}

func TestExpiredURLIsRenewedOnceForAllReaders(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	o := open(t, h, newClient(t, h.URL()), rev, big, "")
	wantBytes(t, o, 0, 10, sample[big])
	h.ExpireURLs()
	h.ResetRequests()
	var wg sync.WaitGroup
	for i := range int64(8) {
		wg.Go(func() { wantBytes(t, o, i*1000, 1000, sample[big]) })
	}
	wg.Wait()
	resolves := 0
	for _, r := range h.Requests() {
		if r.Kind == "resolve" {
			resolves++
		}
	}
	if resolves != 1 {
		t.Errorf("renewed %d times", resolves)
	}
}

func TestCDNThatKeepsRefusingIsUnreachableNotDenied(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		refuse := strings.HasPrefix(r.URL.Path, "/xet-bridge-us/")
		if refuse {
			w.WriteHeader(http.StatusForbidden)
		}
		return refuse
	})
	o := open(t, h, newClient(t, h.URL()), rev, big, "")
	for _, n := range []int64{10, 100_000} {
		h.ResetRequests()
		if _, err := read(t, o, 0, n); !fetcher.Unreachable(err) || fetcher.Denied(err) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if n := len(h.Requests()); n > 4 {
			t.Errorf("took %d requests", n)
		}
	}
}

func TestTokenNeverLeavesTheHub(t *testing.T) {
	const token = "hf_sekrit"
	strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("another host got %q", r.Header.Get("Authorization"))
		}
		fmt.Fprint(w, `{"sha":"`+oid+`"}`)
	}))
	defer strange.Close()
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	c := newClient(t, h.URL())
	for _, location := range []string{strange.URL + "/?sig=signature", "//" + strings.TrimPrefix(strange.URL, "http://"), "ftp://x/?sig=signature", "http://[/?sig=signature", "javascript:1", ""} {
		h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		})
		secret := fetcher.NewSecret(token)
		_, err1 := c.Resolve(t.Context(), rev.Repo, refOf(t, "main"), secret)
		_, err2 := c.Manifest(t.Context(), rev, secret)
		_, err3 := c.Prove(t.Context(), rev.Repo, refOf(t, "main"), pathOf(t, big), secret)
		_, err4 := c.Prove(t.Context(), rev.Repo, refOf(t, "main"), fetcher.Path{}, secret)
		_, err5 := read(t, open(t, h, c, rev, big, token), 0, 100)
		_, err6 := read(t, open(t, h, c, rev, big, token), 0, 100_000)
		for i, err := range []error{err1, err2, err3, err4, err5, err6} {
			if !fetcher.Unreachable(err) || strings.Contains(err.Error(), "signature") || strings.Contains(err.Error(), token) {
				t.Errorf("%q, call %d: %v", location, i+1, err)
			}
		}
	}
}

// The token is not sent again when another host redirects back to the Hub.
func TestTokenIsNotSentAfterADetour(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.AddToken("friend")
	detour := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, h.URL()+"/back", http.StatusFound)
	}))
	defer detour.Close()
	h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/back" && r.Header.Get("Authorization") != "" {
			t.Error("the token came back")
		} else if r.URL.Path != "/back" {
			http.Redirect(w, r, detour.URL, http.StatusFound)
			return true
		}
		return false
	})
	read(t, open(t, h, newClient(t, h.URL()), rev, big, "friend"), 0, 100_000)
}

func TestRedirectLoopEnds(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.Intercept(answer(307, "", "Location", "/again"))
	_, err := newClient(t, h.URL()).Resolve(t.Context(), rev.Repo, refOf(t, "main"), fetcher.Secret{})
	if !fetcher.Unreachable(err) || len(h.Requests()) > 6 {
		t.Errorf("after %d requests: %v", len(h.Requests()), err)
	}
}

// What a CDN or a proxy may do to a ranged answer is an error, never other bytes, and
// one that another try may not meet.
func TestAnswersOfAnotherShapeAreErrors(t *testing.T) {
	body := strings.Repeat("x", 100)
	for name, c := range map[string]struct {
		off, n int64
		answer func(http.ResponseWriter, *http.Request) bool
	}{
		"the whole file for a range": {10, 100, answer(200, body)},
		"another range":              {10, 100, answer(206, body, "Content-Range", "bytes 20-119/100000")},
		"no Content-Range":           {10, 100, answer(206, body)},
		"another total":              {10, 100, answer(206, body, "Content-Range", "bytes 10-109/99999")},
		"fewer bytes than said":      {10, 100, answer(206, body[:50], "Content-Range", "bytes 10-109/100000", "Content-Length", "100")},
		"another length":             {10, 100, answer(206, body[:50], "Content-Range", "bytes 10-109/100000", "Content-Length", "50")},
		"a range for the whole file": {0, 100_000, answer(206, body, "Content-Range", "bytes 0-99/100000")},
		"a shorter file":             {0, 100_000, answer(200, body)},
		"gzip":                       {10, 100, answer(206, body, "Content-Range", "bytes 10-109/100000", "Content-Encoding", "gzip")},
		"not that range":             {10, 100, answer(416, "", "Content-Range", "bytes */5")},
		"a code that is the Hub's":   {10, 100, answer(410, "", "X-Error-Code", "GatedRepo")},
		"a 500":                      {10, 100, answer(500, "oops")},
		"a 429":                      {10, 100, answer(429, "slow", "Retry-After", "7")},
		"chunks that end early":      {10, 100, chunked(50)},
		"chunks that go on":          {10, 100, chunked(101)},
		"a longer file in chunks":    {0, 100_000, chunked(100_001)},
		"not there":                  {10, 100, answer(404, "", "X-Error-Code", "RepoNotFound")},
		"a bad request":              {10, 100, answer(400, "<Error>")},
	} {
		h := hubtest.New(t)
		rev := serve(t, h, "org/name")
		h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			return strings.HasPrefix(r.URL.Path, "/xet-bridge-us/") && c.answer(w, r)
		})
		got, err := read(t, open(t, h, newClient(t, h.URL()), rev, big, ""), c.off, c.n)
		if !fetcher.Transient(err) {
			t.Errorf("%s: %d bytes: %v", name, len(got), err)
		} else if !strings.Contains(err.Error(), big+" of org/name@") || strings.Contains(err.Error(), "Signature") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// chunked answers with n bytes and no length.
func chunked(n int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 10-109/100000")
			w.WriteHeader(http.StatusPartialContent)
		}
		http.NewResponseController(w).Flush()
		fmt.Fprint(w, strings.Repeat("x", n))
		return true
	}
}

func TestReadRangeRefusesWhatTheFileDoesNotHave(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.ResetRequests()
	o := open(t, h, newClient(t, h.URL()), rev, "README.md", "")
	for _, c := range [][2]int64{{-1, 1}, {0, 0}, {0, -1}, {0, 11}, {10, 1}, {1 << 62, 1 << 62}} {
		if _, err := o.ReadRange(t.Context(), c[0], c[1]); err == nil {
			t.Errorf("%d+%d was read", c[0], c[1])
		}
	}
	if len(h.Requests()) != 0 {
		t.Errorf("the Hub was asked: %v", h.Requests())
	}
}

func TestReaderEndsWithItsContext(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	defer h.Hold("org/name", big)()
	o := open(t, h, newClient(t, h.URL()), rev, big, "")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := o.ReadRange(ctx, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	because := errors.New("the pod is gone")
	cancel(because)
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, because) || fetcher.Transient(err) {
		t.Errorf("read ends with %v", err)
	}
	if _, err := o.ReadRange(ctx, 0, 100); !errors.Is(err, because) || fetcher.Transient(err) {
		t.Errorf("ReadRange ends with %v", err)
	}
}
