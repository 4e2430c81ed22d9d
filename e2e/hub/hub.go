// Package hub owns the Hub of the end-to-end tests: matrixhub-ai/hfd, which others
// wrote, with git and LFS behind it, and in front of it a proxy of ours. Only the
// proxy can be reached from outside the machine. It adds the manners of the real Hub
// that hfd lacks (error codes, who may see what, X-Linked-Etag, pages of a listing,
// rate limit headers), does harm on command, and counts what it sends.
//
// It must never know the client under test: the manners are those of the real Hub as its
// traffic was recorded, and as huggingface_hub reads it.
//
// Invariants:
//   - The proxy makes up no truth about content. Commits, paths, sizes and Digests
//     are what hfd says: of an LFS file what the pointer in git says, and hfd took
//     the bytes only because they hashed to that.
//   - Only content (the body of a GET of /{repo}/resolve/...) is throttled, cut,
//     stalled, flipped and counted. Upload goes past the proxy.
//   - What is commanded holds at once, for answers under way too.
//
// Unlike the real Hub this one sends LFS files itself rather than redirect to a CDN,
// knows no Xet, and lists no directories.
package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
)

// defaultPageSize is how many entries a page of the real Hub's listing has.
const defaultPageSize = 1000

// Config describes a Hub.
type Config struct {
	HFD      string    // path of the hfd binary, as Build makes it
	Listen   string    // "ip:port" of the proxy; port 0 takes a free one
	Dir      string    // hfd's repositories and LFS objects; is made if it is not there
	Output   io.Writer // takes what hfd says; nil: nothing
	PageSize int       // entries on a page of a listing; 0: the real Hub's 1000
}

// Hub is a running Hub. All methods are safe for concurrent use.
type Hub struct {
	pageSize int
	hfd      *hfd
	proxy    *httputil.ReverseProxy
	address  string       // of the proxy, with the port that it has for good
	requests atomic.Int64 // so far, for X-Request-Id

	running sync.Mutex // guards server: Stop, Resume and Close take turns
	server  *server    // nil: stopped

	mu     sync.Mutex // guards all below
	repos  map[string]*repository
	tokens map[string]bool
}

// Start starts hfd and the proxy, and returns when both answer. ctx ends the wait,
// not the Hub.
func Start(ctx context.Context, cfg Config) (*Hub, error) {
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("start a Hub: %w", err)
	}
	behind, err := startHFD(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start a Hub: %w", err)
	}
	h := &Hub{
		pageSize: cfg.PageSize, hfd: behind, address: cfg.Listen,
		repos: map[string]*repository{}, tokens: map[string]bool{},
	}
	if h.pageSize == 0 {
		h.pageSize = defaultPageSize
	}
	h.proxy = h.newProxy()
	if err := h.Resume(); err != nil {
		return nil, errors.Join(fmt.Errorf("start a Hub: %w", err), behind.close())
	}
	return h, nil
}

// URL is what HF_ENDPOINT is set to. It stays the same over Stop and Resume.
func (h *Hub) URL() string { return (&url.URL{Scheme: "http", Host: h.address}).String() }

// Stop makes the Hub unreachable: nobody listens, every connection is cut.
func (h *Hub) Stop() error {
	h.running.Lock()
	defer h.running.Unlock()
	if h.server == nil {
		return nil
	}
	err := h.server.close()
	h.server = nil
	return err
}

// Resume makes the Hub reachable where it was before Stop.
func (h *Hub) Resume() error {
	h.running.Lock()
	defer h.running.Unlock()
	if h.server != nil {
		return nil
	}
	s, address, err := serve(h.address, h)
	if err != nil {
		return err
	}
	h.server, h.address = s, address
	return nil
}

// Close stops the proxy and hfd, and waits for both. It returns an error if hfd had
// ended by itself. What is in Config.Dir stays.
func (h *Hub) Close() error { return errors.Join(h.Stop(), h.hfd.close()) }

// server is the proxy's listener and all that came of it.
type server struct {
	http  http.Server
	conns sync.WaitGroup // one for each connection, until its last handler returned
	ended chan error     // what Serve returned
}

func serve(address string, handler http.Handler) (s *server, at string, err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", err
	}
	s = &server{ended: make(chan error, 1)}
	s.http.Handler = handler
	s.http.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // told before Serve accepts another
			s.conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			s.conns.Done()
		}
	}
	go func() { s.ended <- s.http.Serve(listener) }()
	return s, listener.Addr().String(), nil
}

func (s *server) close() error {
	err := s.http.Close()
	if ended := <-s.ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	s.conns.Wait()
	return err
}
