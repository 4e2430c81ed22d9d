package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// demoHub is the demo's own Hub: agent/hubapi over a store, on loopback, at a pace at
// which one can watch. It counts what it serves, and flips a bit when told to.
type demoHub struct {
	store    *store.Store
	repo     fetcher.Repo
	api      http.Handler
	pace     *pace
	listener net.Listener
	server   *http.Server

	requests atomic.Int64
	served   atomic.Int64                 // bytes of content
	flip     atomic.Pointer[fetcher.File] // whose bytes go out with one bit flipped
}

func newDemoHub(s *store.Store, repo fetcher.Repo, bytesPerSecond int64, log *zap.Logger) (*demoHub, error) {
	api, err := hubapi.New(hubapi.Config{Library: hubapi.Cached(s), Log: log})
	if err != nil {
		return nil, err
	}
	h := &demoHub{store: s, repo: repo, api: api, pace: &pace{bytesPerSecond: bytesPerSecond}}
	if h.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen on loopback for the demo's Hub: %w", err)
	}
	h.server = &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: zap.NewStdLog(log)}
	return h, nil
}

func (h *demoHub) url() string { return "http://" + h.listener.Addr().String() }

// run serves until ctx ends or stop is called.
func (h *demoHub) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { h.stop() })()
	if err := h.server.Serve(h.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the demo's Hub: %w", err)
	}
	return nil
}

// stop closes the listener and every connection.
func (h *demoHub) stop() { h.server.Close() }

func (h *demoHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests.Add(1)
	if !strings.Contains(r.URL.Path, "/resolve/") {
		h.api.ServeHTTP(w, r)
		return
	}
	out := &contentWriter{ResponseWriter: w, hub: h, ctx: r.Context(), flipAt: -1}
	if f := h.flip.Load(); f != nil && strings.HasSuffix(r.URL.Path, "/"+f.Path.String()) {
		out.flipAt = f.Size / 2
	}
	h.api.ServeHTTP(out, r)
}

// contentWriter passes a file's bytes on, paced and counted.
type contentWriter struct {
	http.ResponseWriter
	hub    *demoHub
	ctx    context.Context
	flipAt int64 // the byte of the file to damage, or -1

	content bool
	at      int64 // the next byte's place in the file
}

func (w *contentWriter) WriteHeader(status int) {
	w.content = status == http.StatusOK || status == http.StatusPartialContent
	if status == http.StatusPartialContent {
		// A header of hubapi's own: if it were another, nothing would be flipped, and
		// the demo would say so.
		_, _ = fmt.Sscanf(w.Header().Get("Content-Range"), "bytes %d-", &w.at)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *contentWriter) Write(p []byte) (int, error) {
	if !w.content {
		return w.ResponseWriter.Write(p)
	}
	if err := w.hub.pace.wait(w.ctx, len(p)); err != nil {
		return 0, err
	}
	if i := w.flipAt - w.at; w.flipAt >= 0 && i >= 0 && i < int64(len(p)) {
		p = append([]byte(nil), p...) // a Writer must not change what it is given
		p[i] ^= 1
	}
	n, err := w.ResponseWriter.Write(p)
	w.at += int64(n)
	w.hub.served.Add(int64(n))
	return n, err
}

// pace spreads bytes over time. Several may wait at once.
type pace struct {
	bytesPerSecond int64

	mu   sync.Mutex // guards next
	next time.Time  // when the next bytes may go
}

// slack is how far behind its pace it may catch up: timers wake late.
const slack = 50 * time.Millisecond

func (p *pace) wait(ctx context.Context, bytes int) error {
	p.mu.Lock()
	if earliest := time.Now().Add(-slack); p.next.Before(earliest) {
		p.next = earliest
	}
	turn := p.next
	p.next = turn.Add(time.Duration(float64(bytes) / float64(p.bytesPerSecond) * float64(time.Second)))
	p.mu.Unlock()
	left := time.Until(turn)
	if left <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
