// Package modelexpresstest is a Model Express server for tests: the model service of
// modelexpress_server/src/services.rs, over a directory in the server's own layout, with
// what each release does and does not do. The project's own Python client works against it.
//
// It must never know the client that it is there to test.
package modelexpresstest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

// traits are what releases differ in.
type traits struct {
	streams       bool // lists and streams files
	selects       bool // heeds file_selector
	revisions     bool // heeds revision and ignore_weights, names resolved_revision, and keeps books by them
	authenticates bool
}

// releases are those whose behaviour is known.
var releases = map[string]traits{
	"0.2.1": {},
	"0.2.2": {streams: true},
	"0.3.0": {streams: true},
	"0.4.0": {streams: true, selects: true},
	"0.5.1": {streams: true, selects: true},
	"0.7.0": {streams: true, selects: true, revisions: true, authenticates: true},
}

// Config says what a server has and does.
type Config struct {
	Release string // 0.2.1, 0.2.2, 0.3.0, 0.4.0, 0.5.1 or 0.7.0
	Address string // to listen at; "": a free port of 127.0.0.1
	// Dir is its cache: models--org--name/{refs,snapshots/<commit>} as huggingface_hub
	// writes it, symlinks or not.
	Dir string
	// Upstream is the Hub that it downloads from, of the same layout. "": it is down.
	Upstream string
	Offline  bool // HF_HUB_OFFLINE
	// Auth, unless nil, judges each call's bearer token, "" if there is none.
	Auth func(token string) codes.Code
	// Downloading, unless nil, is called before each download; its error fails that.
	Downloading func(ctx context.Context, model, commit string) error
	// Streaming, unless nil, is called when a stream is about to open a file that it has
	// listed.
	Streaming func(path string)
	// Send, unless nil, sends a chunk in the server's stead.
	Send func(chunk *modelexpresspb.FileChunk, stream grpc.ServerStreamingServer[modelexpresspb.FileChunk]) error
}

// Call is one request that came.
type Call struct {
	Method    string
	Token     string
	UserAgent string
	Header    metadata.MD
	Deadline  bool     // it was to end by a time
	Paths     []string // that are asked for; nil: all
}

// Server is a Model Express server.
type Server struct {
	modelexpresspb.UnimplementedModelServiceServer
	Address string

	cfg    Config
	traits traits
	server *grpc.Server
	served chan struct{} // closed when it no longer serves
	life   context.Context
	end    context.CancelFunc
	work   sync.WaitGroup // downloads

	mu      sync.Mutex // guards all below
	calls   []Call
	waiting int // calls, for a download
	streams int // open
	most    int // of them, at once
	entries map[string]*entry
}

// Start starts a server.
func Start(cfg Config) (*Server, error) {
	of, ok := releases[cfg.Release]
	if !ok {
		return nil, fmt.Errorf("what release %q does is not known", cfg.Release)
	}
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, err
	}
	s := &Server{Address: l.Addr().String(), cfg: cfg, traits: of, served: make(chan struct{}), entries: map[string]*entry{}}
	s.life, s.end = context.WithCancel(context.Background())
	s.server = grpc.NewServer(
		// Its HTTP/2 library minds no pings.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if err := s.admit(stream.Context()); err != nil {
				return err
			}
			return handler(srv, stream)
		}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := s.admit(ctx); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		}),
	)
	service := modelexpresspb.ModelService_ServiceDesc
	if !of.streams {
		service.Methods = nil
		service.Streams = slices.DeleteFunc(slices.Clone(service.Streams), func(d grpc.StreamDesc) bool { return d.StreamName != "EnsureModelDownloaded" })
	}
	s.server.RegisterService(&service, s)
	go func() {
		defer close(s.served)
		_ = s.server.Serve(l) // Close ends it
	}()
	return s, nil
}

// Close breaks off all that is under way and waits for it.
func (s *Server) Close() {
	s.end()
	s.server.Stop()
	<-s.served
	s.work.Wait()
}

// Calls returns the requests of a method so far, such as "ListModelFiles".
func (s *Server) Calls(method string) (list []Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.Method == method {
			list = append(list, c)
		}
	}
	return list
}

// Waiting returns how many calls wait for a download.
func (s *Server) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

func (s *Server) wait(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
}

// Streams returns how many streams of files are open.
func (s *Server) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

// MostStreams returns how many streams of files were open at once.
func (s *Server) MostStreams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// note records a request.
func (s *Server) note(ctx context.Context, method string, paths []string) {
	md, _ := metadata.FromIncomingContext(ctx)
	_, deadline := ctx.Deadline()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, Call{
		Method: method, Token: bearer(md), UserAgent: strings.Join(md.Get("user-agent"), " "), Header: md, Deadline: deadline, Paths: paths,
	})
}

func bearer(md metadata.MD) string {
	token, _ := strings.CutPrefix(strings.Join(md.Get("authorization"), ","), "Bearer ")
	return token
}

// admit judges a call's token, at its beginning alone.
func (s *Server) admit(ctx context.Context) error {
	if !s.traits.authenticates || s.cfg.Auth == nil {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if code := s.cfg.Auth(bearer(md)); code != codes.OK {
		return status.Error(code, "denied by the token review")
	}
	return nil
}
