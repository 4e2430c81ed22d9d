package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// Tokens of accounts on the test's Hub. Each has "hf_" in it, which no log may have.
const (
	none    = ""
	good    = "hf_good"    // may read what is private or gated
	another = "hf_another" // of another tenant
	revoked = "hf_revoked" // could read it
)

// tenants is an agent whose cache two pods read over hubapi, by TLS.
type tenants struct {
	t       *testing.T
	hub     *hubtest.Hub
	agent   *agent.Agent
	log     *diary
	url     string
	clients map[string]*http.Client // by address
}

// newTenants starts one; edit changes the agent's Config.
func newTenants(t *testing.T, edit ...func(*agent.Config)) *tenants {
	t.Helper()
	w := &tenants{t: t, hub: hubtest.New(t), log: newDiary(), clients: map[string]*http.Client{}}
	for _, token := range []string{good, another, revoked} {
		w.hub.AddToken(token)
	}
	client, err := hub.New(hub.Config{Endpoint: w.hub.URL(), Log: w.log.Logger, TokensOverHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	engine, err := fetcher.NewEngine(fetcher.EngineConfig{Log: w.log.Logger})
	if err != nil {
		t.Fatal(err)
	}
	cfg := agent.Config{Store: storetest.Open(t), Hub: client, Sources: []fetcher.Source{client}, Engine: engine, Log: w.log.Logger}
	for _, e := range edit {
		e(&cfg)
	}
	if w.agent, err = agent.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.agent.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	flags, roots := writeCertificate(t, t.TempDir(), 1)
	address, _ := startHubAPI(t, flags, cacheLibrary{w.agent}, w.log.Logger)
	w.url = "https://" + address
	for _, local := range []string{podA, podB, stranger} {
		c := from(t, local)
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
		w.clients[local] = c
	}
	t.Cleanup(func() {
		if strings.Contains(w.log.String(), "hf_") {
			t.Error("a token is in the log")
		}
	})
	return w
}

// reply is all that a client learns from an answer.
type reply struct {
	status int
	head   http.Header
	body   string
}

// String leaves out what is the same or different by chance.
func (r reply) String() string {
	head := r.head.Clone()
	head.Del("Date")
	return fmt.Sprint(r.status, " ", head, " ", r.body)
}

// ask sends what is one line of a request, such as "GET /path", from an address.
func (w *tenants) ask(local, token, line string, headers ...string) reply {
	w.t.Helper()
	method, path, _ := strings.Cut(line, " ")
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("paths=config.json&paths=missing")
		headers = append(headers, "Content-Type: application/x-www-form-urlencoded")
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	if token != none {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		req.Header.Set(key, value)
	}
	res, err := w.clients[local].Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(text)}
}

// acquire brings a Repo into the cache as a volume's pod would.
func (w *tenants) acquire(repo, token string) {
	w.t.Helper()
	parsed, err := fetcher.ParseRepo(repo)
	if err != nil {
		w.t.Fatal(err)
	}
	main, err := fetcher.ParseRef("main")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	req := agent.Request{Repo: parsed, Ref: main, Layout: store.Snapshot, Token: fetcher.NewSecret(token)}
	req.Volume = store.Volume{ID: repo + token, Target: "/pods/" + repo + token}
	if _, err := w.agent.Acquire(ctx, req); err != nil {
		w.t.Fatalf("acquire %s: %v", repo, err)
	}
}
