package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// TestALimitOpensNoFallback: a repository turned private while the anonymous limit is used
// up, at a Hub whose refusal of a HEAD says nothing by itself.
func TestALimitOpensNoFallback(t *testing.T) {
	w := newTenants(t, func(c *agent.Config) { c.PublicFor, c.RefMaxAge = time.Second, time.Second })
	w.hub.AddRepo("team/was-public", filesOf("team/was-public"))
	w.acquire("team/was-public", none)
	w.hub.SetPrivate("team/was-public", good)
	time.Sleep(1100 * time.Millisecond) // PublicFor, on the real clock that the Hub has too
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodHead {
			rw.Header().Set("RateLimit", `"resolvers";r=0;t=55`)
		}
		rw.WriteHeader(http.StatusNotFound)
		fmt.Fprint(rw, `{"error":"repository not found"}`)
		return true
	})
	repo, err := fetcher.ParseRepo("team/was-public")
	if err != nil {
		t.Fatal(err)
	}
	main, err := fetcher.ParseRef("main")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	m, err := w.agent.Acquire(ctx, agent.Request{Repo: repo, Ref: main, Layout: store.Snapshot, Volume: store.Volume{ID: "stranger", Target: "/pods/stranger"}})
	if err == nil {
		t.Errorf("a stranger is given %s: %s", m.View, m.Notice)
	}
}

// TestATokenThatMayNotBeSentIsRefusedWithTheReason: it is the operator's to allow, and no
// failure of this process.
func TestATokenThatMayNotBeSentIsRefusedWithTheReason(t *testing.T) {
	h := hubtest.New(t)
	client, err := hub.New(hub.Config{Endpoint: h.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	w := newTenants(t, func(c *agent.Config) { c.Hub, c.Sources = client, []fetcher.Source{client} })
	h.AddRepo("team/private", filesOf("team/private"))
	h.SetPrivate("team/private", good)
	got := w.ask(podA, good, "GET /team/private/resolve/main/config.json")
	if got.status != http.StatusForbidden || !strings.Contains(got.body, "--tokens-over-http") {
		t.Error(got)
	}
	if strings.Contains(w.log.String(), `"L":"ERROR"`) {
		t.Errorf("an error is logged:\n%s", w.log.String())
	}
}

// TestAStrangerIsRefusedWhateverItAsks, also what net/http would answer by itself.
func TestAStrangerIsRefusedWhateverItAsks(t *testing.T) {
	w := newTenants(t)
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(stranger)}}
	for _, line := range []string{"OPTIONS *", "GET /", "TRACE /"} {
		conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(w.url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		s := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		fmt.Fprintf(s, "%s HTTP/1.1\r\nHost: h\r\n\r\n", line)
		res, err := http.ReadResponse(bufio.NewReader(s), nil)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", line, res.Status)
		}
	}
}

// TestStrangersDoNotKeepANewPodOut: one whose address is not known yet.
func TestStrangersDoNotKeepANewPodOut(t *testing.T) {
	var known atomic.Bool
	admit := func(from netip.Addr) (string, bool) { return "team-a", known.Load() && from.Unmap().String() == podA }
	flags := hubAPIConfig{Address: "127.0.0.1:0", settle: 3 * time.Second}
	h, err := flags.open(&asked{}, admit, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(stranger)}}
	for range connectionsAPod {
		conn, err := d.DialContext(t.Context(), "tcp", h.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	time.AfterFunc(200*time.Millisecond, func() { known.Store(true) })
	if _, ok := dial(t, podA, h.listener.Addr().String()); !ok {
		t.Error("a pod that has just started is refused")
	}
}
