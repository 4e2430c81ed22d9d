// Package hubtest owns an imitation of the Hugging Face Hub for tests: real HTTP
// on two loopback addresses, one for the Hub and one for its "CDN", with the
// manners of the real one: commits, branches and tags, a paginated tree, LFS
// files behind a redirect to a signed URL on another host, error codes, rate
// limit headers, tokens, private and gated repositories, and faults on command.
//
// It must never know the client under test: it is written from the Hub's
// recorded behaviour, not from what the client sends.
//
// Invariants:
//   - A request to the CDN that carries Authorization fails the test.
//   - A CDN URL that was asked for with a Range serves exactly that range.
//   - What Manifest says is true, whatever Corrupt makes the Hub deliver.
package hubtest

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Request is one request that the Hub or its CDN received.
type Request struct {
	Method string
	Path   string // as it was escaped on the wire, without the query
	Auth   bool   // whether it carried Authorization
	Range  string // the Range header
	Kind   string // "api", "resolve" or "cdn"
}

// Hub is a running imitation. All methods are safe for concurrent use.
type Hub struct {
	t        testing.TB
	hub, cdn *httptest.Server
	down     atomic.Bool
	served   atomic.Int64
	closing  chan struct{} // closed when the test ends: nothing waits beyond it

	mu         sync.Mutex // guards all below
	repos      map[string]*repo
	renamed    map[string]string
	tokens     map[string]bool
	requests   []Request
	intercept  func(http.ResponseWriter, *http.Request) bool
	pageSize   int
	cacheHop   bool
	epoch      int // signed URLs of an earlier epoch have expired
	corrupt    map[fileKey]int
	holds      map[fileKey][]chan struct{}
	rate       int // content bytes a second; 0: no limit
	slot       time.Time
	limited    int
	wait       time.Duration
	windows    *windows // nil: no limits
	counts     Counts
	sequence   int // of request ids
	registered int // repositories so far
}

// fileKey names a file of a repository, whatever its revision.
type fileKey struct{ repo, path string }

// New starts a Hub; the test's cleanup stops it.
func New(t testing.TB) *Hub {
	t.Helper()
	h := &Hub{
		t: t, closing: make(chan struct{}), pageSize: 1000,
		repos: map[string]*repo{}, renamed: map[string]string{}, tokens: map[string]bool{},
		corrupt: map[fileKey]int{}, holds: map[fileKey][]chan struct{}{},
	}
	h.hub = h.start(h.serveHub)
	h.cdn = h.start(h.serveCDN)
	t.Cleanup(func() {
		close(h.closing)
		h.hub.CloseClientConnections()
		h.cdn.CloseClientConnections()
		h.hub.Close()
		h.cdn.Close()
	})
	return h
}

func (h *Hub) start(handler http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.Listener = &listener{s.Listener, &h.down}
	s.Start()
	return s
}

// listener cuts every connection while down is set.
type listener struct {
	net.Listener
	down *atomic.Bool
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || !l.down.Load() {
			return c, err
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset, not a polite end
		}
		c.Close()
	}
}

// URL returns the Hub's address, what HF_ENDPOINT would be: "http://127.0.0.1:port".
func (h *Hub) URL() string { return h.hub.URL }

// CDNHost returns the CDN's "host:port": the same name as the Hub's, another port.
func (h *Hub) CDNHost() string { return h.cdn.Listener.Addr().String() }

// Requests returns what was received since the start or the last ResetRequests,
// in order of arrival.
func (h *Hub) Requests() []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Request(nil), h.requests...)
}

// ResetRequests forgets the requests received so far.
func (h *Hub) ResetRequests() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests, h.counts = nil, Counts{}
}

// BytesServed returns how many bytes of file content were sent so far.
func (h *Hub) BytesServed() int64 { return h.served.Load() }

// serveHub answers for the Hub itself.
func (h *Hub) serveHub(w http.ResponseWriter, r *http.Request) {
	kind := "resolve"
	if strings.HasPrefix(r.URL.Path, "/api/") && !strings.HasPrefix(r.URL.Path, "/api/resolve-cache/") {
		kind = "api"
	}
	if !h.admit(w, r, kind) {
		return
	}
	c := &call{Hub: h, w: w, r: r, token: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}
	switch {
	case c.token != "" && !h.validToken(c.token):
		c.unauthorized("Invalid credentials in Authorization header")
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		c.fail(http.StatusMethodNotAllowed, "", "method not allowed")
	case strings.HasPrefix(r.URL.Path, "/api/"):
		c.api()
	default:
		c.resolve()
	}
}

// serveCDN answers for the host that LFS files are redirected to.
func (h *Hub) serveCDN(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		h.t.Errorf("hubtest: %s %s: Authorization was sent to the CDN", r.Method, r.URL.Path)
	}
	if !h.admit(w, r, "cdn") {
		return
	}
	c := &call{Hub: h, w: w, r: r}
	c.content()
}

// admit records a request and applies what was commanded for all of them. It
// reports whether the request is still to be answered.
func (h *Hub) admit(w http.ResponseWriter, r *http.Request, kind string) bool {
	h.mu.Lock()
	h.requests = append(h.requests, Request{
		Method: r.Method, Path: r.URL.EscapedPath(), Auth: r.Header.Get("Authorization") != "",
		Range: r.Header.Get("Range"), Kind: kind,
	})
	h.sequence++
	id, intercept := h.sequence, h.intercept
	limited, wait := h.limited > 0 && kind != "cdn", h.wait
	if limited {
		h.limited--
	}
	bucket := bucketOf(kind)
	left := plenty(bucket)
	if h.windows != nil && kind != "cdn" {
		left = h.windows.take(bucket, r.Header.Get("Authorization"), time.Now())
	}
	h.counts.add(r.Method, kind, limited || left.refused)
	h.mu.Unlock()
	if kind != "cdn" {
		header(w, bucket, id, left)
	}
	if intercept != nil && intercept(w, r) {
		return false
	}
	switch {
	case limited:
		tooMany(w, bucket, wait)
	case left.refused:
		refuse(w, left.reset)
	}
	return !limited && !left.refused
}
