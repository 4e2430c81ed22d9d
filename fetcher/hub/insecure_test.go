package hub_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// Loopback is no exception: what listens there is not always ours.
func TestTokenIsNotSentOverHTTPUnlessAllowed(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.AddToken("hf_sekrit")
	c := must[*hub.Client](t)(hub.New(hub.Config{Endpoint: h.URL()}))
	t.Cleanup(c.CloseIdle)
	h.ResetRequests()
	for name, err := range errorsOf(t, h, c, rev, "hf_sekrit") {
		if !errors.Is(err, fetcher.ErrInsecure) || fetcher.Denied(err) || fetcher.Transient(err) {
			t.Errorf("%s: %v", name, err)
		} else if s := err.Error(); strings.Contains(s, "hf_sekrit") || !strings.Contains(s, "--tokens-over-http") || !strings.Contains(s, "org/name") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := h.Requests(); len(got) != 0 {
		t.Errorf("the Hub was asked: %+v", got)
	}
	for name, err := range errorsOf(t, h, c, rev, "") {
		if err != nil {
			t.Errorf("%s without a token: %v", name, err)
		}
	}
	for name, err := range errorsOf(t, h, newClient(t, h.URL()), rev, "hf_sekrit") {
		if err != nil {
			t.Errorf("%s where it is allowed: %v", name, err)
		}
	}
}

// errorsOf asks everything that can be asked.
func errorsOf(t *testing.T, h *hubtest.Hub, c *hub.Client, rev fetcher.Revision, token string) map[string]error {
	t.Helper()
	main, secret, errs := refOf(t, "main"), fetcher.NewSecret(token), map[string]error{}
	_, errs["resolve"] = c.Resolve(t.Context(), rev.Repo, main, secret)
	_, errs["manifest"] = c.Manifest(t.Context(), rev, secret)
	_, errs["prove"] = c.Prove(t.Context(), rev.Repo, main, pathOf(t, big), secret)
	_, errs["auth-check"] = c.Prove(t.Context(), rev.Repo, main, fetcher.Path{}, secret)
	_, errs["read"] = read(t, open(t, h, c, rev, big, token), 0, 100_000)
	_, errs["read a range"] = read(t, open(t, h, c, rev, big, token), 1, 2)
	return errs
}

// The same name is not the same origin: another scheme or port is another program, and
// http:// another set of listeners.
func TestTokenGoesToNoOtherSchemeHostOrPort(t *testing.T) {
	for name, c := range map[string]struct {
		hub, other func(http.Handler) *httptest.Server
	}{
		"another port":               {httptest.NewServer, httptest.NewServer},
		"another host":               {httptest.NewServer, func(h http.Handler) *httptest.Server { return atLocalhost(httptest.NewServer(h)) }},
		"https, from http":           {httptest.NewServer, httptest.NewTLSServer},
		"http, from https":           {httptest.NewTLSServer, httptest.NewServer},
		"another port, all of https": {httptest.NewTLSServer, httptest.NewTLSServer},
	} {
		reached := 0
		other := c.other(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			reached++
			if r.Header.Get("Authorization") != "" {
				t.Errorf("%s: it got %q", name, r.Header.Get("Authorization"))
			}
		}))
		here := 0
		home := c.hub(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			here++
			if r.Header.Get("Authorization") != "Bearer hf_sekrit" {
				t.Errorf("%s: the Hub got %q", name, r.Header.Get("Authorization"))
			}
			http.Redirect(w, r, other.URL+"/?sig=signature", http.StatusTemporaryRedirect)
		}))
		client, err := hub.New(hub.Config{Endpoint: home.URL, TokensOverHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		hub.Trust(client, home, other)
		f := fetcher.File{Path: pathOf(t, "x"), Size: 100_000}
		o := must[fetcher.Object](t)(client.Open(t.Context(), fetcher.Revision{Repo: repoOf(t, "org/name"), Commit: commitOf(t, oid)}, f, fetcher.NewSecret("hf_sekrit")))
		down := name == "http, from https"
		for _, n := range []int64{10, f.Size} {
			if _, err := read(t, o, 0, n); fetcher.Unreachable(err) == down || errors.Is(err, fetcher.ErrOffLimits) != down || strings.Contains(err.Error(), "sig") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if want := 2; here == 0 || reached != want && !down || reached > 0 && down {
			t.Errorf("%s: the Hub was asked %d times, the other %d times", name, here, reached)
		}
		client.CloseIdle()
		home.Close()
		other.Close()
	}
}
