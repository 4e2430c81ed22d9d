package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/fetcher"
)

// hubAPI serves the Hub's HTTP API over an agent's cache to this node's pods.
type hubAPI struct {
	listener net.Listener
	server   *http.Server
}

// admission says whether an address is a pod's of this node, and of which namespace.
type admission func(netip.Addr) (namespace string, ok bool)

// within is admit, which is asked for so long before it is believed that an address is
// nobody's.
func (admit admission) within(settle time.Duration) admission {
	return func(from netip.Addr) (namespace string, ok bool) {
		for end := time.Now().Add(settle); ; time.Sleep(100 * time.Millisecond) {
			if namespace, ok = admit(from); ok || !time.Now().Before(end) {
				return namespace, ok
			}
		}
	}
}

// open listens, if there is an address to listen on; else it is nil. So is admit without
// --kube.
func (c hubAPIConfig) open(lib hubapi.Library, admit admission, log *zap.Logger) (*hubAPI, error) {
	switch {
	case c.Address == "" && c.TLSCert == "" && c.TLSKey == "":
		return nil, nil
	case c.Address == "":
		return nil, usageError{errors.New("--hub-tls-cert and --hub-tls-key are for --hub-address: give it too, or neither")}
	case admit == nil:
		return nil, usageError{errors.New("--hub-address needs --kube: without it nobody can tell this node's pods from strangers")}
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return nil, usageError{errors.New("--hub-tls-cert and --hub-tls-key: give both, or none for plain HTTP")}
	}
	api, err := hubapi.New(hubapi.Config{Library: lib, Admit: admit.within(c.settle), Log: log})
	if err != nil {
		return nil, err
	}
	h := &hubAPI{server: newHubServer(api, log)}
	if c.TLSCert != "" {
		files, err := openCertificate(c.TLSCert, c.TLSKey, log)
		if err != nil {
			return nil, usageError{fmt.Errorf("--hub-tls-cert, --hub-tls-key: %w", err)}
		}
		h.server.TLSConfig = files.config()
	}
	address, err := net.ResolveTCPAddr("tcp", c.Address)
	if err != nil {
		return nil, usageError{fmt.Errorf("--hub-address: %w", err)}
	}
	l, err := net.ListenTCP("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--hub-address: %w", err)
	}
	h.listener = newCrowd(l, admit)
	return h, nil
}

// newHubServer bounds what one connection may take. HTTP/1 alone: a connection then
// carries one request at a time, so a bound on connections is one on requests.
func newHubServer(api http.Handler, log *zap.Logger) *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      api,
		DisableGeneralOptionsHandler: true, // it would answer strangers too
		Protocols:                    protocols,
		ReadHeaderTimeout:            10 * time.Second,
		WriteTimeout:                 15 * time.Minute, // a question to the Hub included; the API says itself how long an answer may take
		IdleTimeout:                  time.Minute,
		MaxHeaderBytes:               32 << 10,
		ErrorLog:                     serverLog(log),
	}
}

// serverLog keeps what net/http says of broken connections, which anyone can make, at
// Debug.
func serverLog(to *zap.Logger) *log.Logger {
	return log.New(writer(func(text string) {
		if strings.Contains(text, "panic") {
			to.Error("hub API", zap.String("said", text))
			return
		}
		to.Debug("hub API", zap.String("said", text))
	}), "", 0)
}

type writer func(text string)

func (w writer) Write(p []byte) (int, error) {
	w(strings.TrimSpace(string(p)))
	return len(p), nil
}

// run serves until ctx ends, and lets what is being answered then end within a moment.
func (h *hubAPI) run(ctx context.Context) error {
	if h == nil {
		return nil
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		moment, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if h.server.Shutdown(moment) != nil {
			h.server.Close()
		}
	})
	var err error
	if h.server.TLSConfig != nil {
		err = h.server.ServeTLS(h.listener, "", "")
	} else {
		err = h.server.Serve(h.listener)
	}
	if !stop() {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the Hub's API on %s: %w", h.listener.Addr(), err)
	}
	return nil
}

// cacheLibrary lets hubapi ask the agent: neither knows the other.
type cacheLibrary struct{ agent *agent.Agent }

func asking(who hubapi.Caller) agent.Caller {
	return agent.Caller{Token: who.Token, Pod: agent.Pod{Namespace: who.Namespace}}
}

func (l cacheLibrary) Manifest(ctx context.Context, who hubapi.Caller, repo fetcher.Repo, ref fetcher.Ref) (*fetcher.Manifest, error) {
	return l.agent.Listing(ctx, asking(who), repo, ref)
}

func (l cacheLibrary) Refs(ctx context.Context, who hubapi.Caller, repo fetcher.Repo) (map[string]fetcher.Commit, error) {
	return l.agent.Refs(ctx, asking(who), repo)
}

func (l cacheLibrary) Open(ctx context.Context, who hubapi.Caller, rev fetcher.Revision, f fetcher.File) (io.ReadSeekCloser, error) {
	file, err := l.agent.OpenFile(ctx, asking(who), rev, f)
	if err != nil {
		return nil, err // not a nil file in an interface
	}
	return file, nil
}
