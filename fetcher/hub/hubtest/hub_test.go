package hubtest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask sends one request without following redirects.
func ask(t *testing.T, method, url string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, body
}

var files = map[string][]byte{
	"README.md":         []byte("# hello\n"),
	"model.safetensors": bytes.Repeat([]byte("0123456789"), 500),
	"a/b/c.json":        []byte("{}"),
	"empty":             {},
}

func TestHubServesWhatItsManifestSays(t *testing.T) {
	h := hubtest.New(t)
	commit := h.AddRepo("org/name", files)
	for path, f := range h.Manifest("org/name") {
		res, body := ask(t, "GET", h.URL()+"/org/name/resolve/main/"+path)
		if res.Header.Get("X-Repo-Commit") != commit {
			t.Errorf("%s: X-Repo-Commit is %q", path, res.Header.Get("X-Repo-Commit"))
		}
		if f.Digest.Algorithm() == "sha256" {
			if res.StatusCode != 302 || res.Header.Get("X-Linked-Etag") != `"`+f.Digest.Hex()+`"` {
				t.Fatalf("%s: %s, %v", path, res.Status, res.Header)
			}
			res, body = ask(t, "GET", res.Header.Get("Location"))
		}
		if res.StatusCode != 200 || !bytes.Equal(body, files[path]) {
			t.Errorf("%s: %s, %d bytes", path, res.Status, len(body))
		}
	}
}

func TestSignedURLServesOnlyTheRangeItWasAskedWith(t *testing.T) {
	h := hubtest.New(t)
	h.AddRepo("org/name", files)
	url := h.URL() + "/org/name/resolve/main/model.safetensors"
	free, _ := ask(t, "GET", url)
	bound, _ := ask(t, "GET", url, "Range", "bytes=0-9")
	for _, c := range []struct {
		from, rng string
		status    int
	}{
		{free.Header.Get("Location"), "", 200},
		{free.Header.Get("Location"), "bytes=10-19", 206},
		{free.Header.Get("Location"), "bytes=9999-", 416},
		{bound.Header.Get("Location"), "bytes=0-9", 206},
		{bound.Header.Get("Location"), "bytes=10-19", 403},
		{bound.Header.Get("Location"), "", 403},
	} {
		res, body := ask(t, "GET", c.from, "Range", c.rng)
		if res.StatusCode != c.status || c.status == 206 && string(body) != "0123456789" {
			t.Errorf("range %q: %s, want %d", c.rng, res.Status, c.status)
		}
	}
	h.ExpireURLs()
	if res, _ := ask(t, "GET", free.Header.Get("Location")); res.StatusCode != 403 {
		t.Errorf("an expired URL answers %s", res.Status)
	}
}

func TestTreeIsPaginatedAndHasDirectories(t *testing.T) {
	h := hubtest.New(t)
	h.AddRepo("datasets/org/name", files)
	h.PageSize(4)
	res, body := ask(t, "GET", h.URL()+"/api/datasets/org/name/tree/main?recursive=true&expand=false")
	var page []struct{ Type, Path string }
	if err := json.Unmarshal(body, &page); err != nil || len(page) != 4 || res.Header.Get("Link") == "" {
		t.Fatalf("%v: %d entries, Link %q", err, len(page), res.Header.Get("Link"))
	}
	if page[1].Type != "directory" || page[1].Path != "a" && page[1].Path != "a/b" {
		t.Errorf("entries are %v", page)
	}
}

func TestWhoMayReadWhat(t *testing.T) {
	h := hubtest.New(t)
	for _, name := range []string{"org/public", "org/private", "org/gated"} {
		h.AddRepo(name, files)
	}
	h.AddToken("stranger")
	h.SetPrivate("org/private", "friend")
	h.SetGated("org/gated", "friend")
	for _, c := range []struct {
		path, token string
		status      int
		code        string
	}{
		{"/org/public/resolve/main/empty", "", 200, ""},
		{"/org/public/resolve/main/empty", "stranger", 200, ""},
		{"/org/public/resolve/main/empty", "forged", 401, ""},
		{"/org/public/resolve/main/none", "", 404, "EntryNotFound"},
		{"/org/public/resolve/none/empty", "", 404, "RevisionNotFound"},
		{"/org/none/resolve/main/empty", "", 401, ""},
		{"/org/none/resolve/main/empty", "stranger", 404, "RepoNotFound"},
		{"/org/private/resolve/main/empty", "", 401, ""},
		{"/org/private/resolve/main/empty", "stranger", 404, "RepoNotFound"},
		{"/org/private/resolve/main/empty", "friend", 200, ""},
		{"/org/gated/resolve/main/empty", "", 401, "GatedRepo"},
		{"/org/gated/resolve/main/empty", "stranger", 403, "GatedRepo"},
		{"/org/gated/resolve/main/empty", "friend", 200, ""},
		{"/api/models/org/gated/tree/main", "", 200, ""},
		{"/api/models/org/gated/revision/main", "", 200, ""},
		{"/api/models/org/gated/auth-check", "", 401, "GatedRepo"},
		{"/api/models/org/gated/auth-check", "friend", 200, ""},
		{"/api/models/org/private/revision/main", "", 401, ""},
	} {
		auth := ""
		if c.token != "" {
			auth = "Bearer " + c.token
		}
		res, _ := ask(t, "GET", h.URL()+c.path, "Authorization", auth)
		if res.StatusCode != c.status || res.Header.Get("X-Error-Code") != c.code || res.Header.Get("X-Request-Id") == "" || res.Header.Get("RateLimit") == "" {
			t.Errorf("%s as %q: %s %q, want %d %q", c.path, c.token, res.Status, res.Header.Get("X-Error-Code"), c.status, c.code)
		}
	}
}

func TestFaultsHappenAsOftenAsCommanded(t *testing.T) {
	h := hubtest.New(t)
	h.AddRepo("org/name", files)
	url := h.URL() + "/org/name/resolve/main/README.md"
	h.Corrupt("org/name", "README.md", 1)
	for want := range 2 {
		if _, body := ask(t, "GET", url); bytes.Equal(body, files["README.md"]) != (want == 1) {
			t.Errorf("delivery %d is %q", want, body)
		}
	}
	h.RateLimit(1, 0)
	for _, want := range []int{429, 200} {
		if res, _ := ask(t, "GET", url); res.StatusCode != want {
			t.Errorf("got %s, want %d", res.Status, want)
		}
	}
	h.Down(true)
	if res, err := http.DefaultTransport.RoundTrip(must(http.NewRequest("GET", url, nil))); err == nil {
		t.Errorf("a Hub that is down answers %s", res.Status)
	}
	h.Down(false)
	ask(t, "GET", url)
}

func must(r *http.Request, err error) *http.Request {
	if err != nil {
		panic(err)
	}
	return r
}
