package modelexpress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"
)

// Config says which server to run, and over what.
type Config struct {
	Program string // of Install
	Address string // host:port; "": a free port of 127.0.0.1
	// Dir is its cache: models--org--name/{refs,snapshots/<commit>}, as huggingface_hub
	// writes it.
	Dir string
	// Endpoint is the Hub that it downloads from, an http:// URL. "": none, it is offline.
	Endpoint string
	Log      io.Writer // takes what it says; nil: nothing does
}

// Server is a server that runs.
type Server struct {
	Address string
	cmd     *exec.Cmd
	ended   chan struct{}
}

// Start starts a server and waits until it listens.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Address == "" {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		cfg.Address = address
	}
	host, port, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return nil, err
	}
	s := &Server{Address: cfg.Address, cmd: exec.Command(cfg.Program), ended: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = cfg.Log, cfg.Log
	home, err := os.MkdirTemp("", "modelexpress-")
	if err != nil {
		return nil, err
	}
	s.cmd.Dir = home
	s.cmd.Env = []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "MX_METADATA_BACKEND=memory",
		"MODEL_EXPRESS_CACHE_DIRECTORY=" + cfg.Dir, "MODEL_EXPRESS_SERVER_HOST=" + host, "MODEL_EXPRESS_SERVER_PORT=" + port,
		"MODEL_EXPRESS_SERVER_METRICS_PORT=0", "MODEL_EXPRESS_CACHE_EVICTION_ENABLED=false",
	}
	if cfg.Endpoint == "" {
		s.cmd.Env = append(s.cmd.Env, "HF_HUB_OFFLINE=1")
	} else {
		s.cmd.Env = append(s.cmd.Env, "HF_ENDPOINT="+cfg.Endpoint)
	}
	if err := s.cmd.Start(); err != nil {
		os.RemoveAll(home)
		return nil, err
	}
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // whether it was to end, those who wait know
		os.RemoveAll(home)
	}()
	return s, s.listens(ctx)
}

func (s *Server) listens(ctx context.Context) error {
	for {
		conn, err := net.DialTimeout("tcp", s.Address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-s.ended:
			return fmt.Errorf("modelexpress-server ended before it listened: %s", s.cmd.ProcessState)
		case <-ctx.Done():
			s.Stop()
			return errors.Join(ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop kills the server and waits for its end.
func (s *Server) Stop() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// freeAddress returns an address that nobody listened at just now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
