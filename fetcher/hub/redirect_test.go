package hub

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

// A mirror knows the token that it was sent, and may name a host after it.
func TestTokenInTheHostOfARedirectIsNotTold(t *testing.T) {
	const token = "hf_secretsecret"
	for _, status := range []int{http.StatusNotFound, http.StatusBadRequest} {
		world := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Host == "hub.example" {
				http.Redirect(w, r, "http://"+token+".evil.example/?sig=signature", http.StatusFound)
				return
			}
			w.WriteHeader(status)
		}))
		defer world.Close()
		at, err := url.Parse(world.URL)
		if err != nil {
			t.Fatal(err)
		}
		c, err := New(Config{Endpoint: "http://hub.example", TokensOverHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		c.proxy = http.ProxyURL(at) // so that every name leads to world
		c.transport = newTransport(1, c.proxy, net.Dialer{})
		defer c.CloseIdle()
		for _, err := range readBoth(t, c, fetcher.NewSecret(token)) {
			if s := err.Error(); strings.Contains(s, token) || !strings.Contains(s, "[redacted].evil.example") {
				t.Errorf("%d: %v", status, err)
			}
		}
	}
}

// An endpoint at https whose storage is at http: nothing that waiting mends, and nothing
// that an operator has allowed.
func TestContentIsNotFollowedFromHTTPSToHTTP(t *testing.T) {
	storage := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("content was asked for over http://") }))
	defer storage.Close()
	endpoint := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Repo-Commit", strings.Repeat("ab", 20))
		http.Redirect(w, r, storage.URL+"/bucket/x?sig=signature", http.StatusFound)
	}))
	defer endpoint.Close()
	c, err := New(Config{Endpoint: endpoint.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdle()
	c.transport.TLSClientConfig = endpoint.Client().Transport.(*http.Transport).TLSClientConfig
	wantOffLimits(t, "content", storage.URL, readBoth(t, c, fetcher.Secret{}))
	for _, err := range readBoth(t, c, fetcher.Secret{}) {
		if err == nil || !strings.Contains(err.Error(), "https storage") {
			t.Errorf("what to do is not said: %v", err)
		}
	}
	// The Hub's word on access stands in the redirect, which is not followed for it.
	main, err := fetcher.ParseRef("main")
	if err != nil {
		t.Fatal(err)
	}
	path, err := fetcher.ParsePath("m.bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prove(t.Context(), revisionOf(t).Repo, main, path, fetcher.Secret{}); err != nil {
		t.Errorf("proof: %v", err)
	}
	// Anything else that is sent there was not the Hub's, as a proxy's page is not.
	if _, err := c.Resolve(t.Context(), revisionOf(t).Repo, main, fetcher.Secret{}); !fetcher.Unreachable(err) || errors.Is(err, fetcher.ErrOffLimits) {
		t.Errorf("resolve: %v", err)
	}
}
