package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/fetcher/hubcache"
)

type serveFlags struct {
	dir       string
	address   string
	cert, key string
	tokenFile string
	logLevel  string
}

func serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a Hugging Face cache directory as a Hub, for a whole cluster",
		Long: "Serves a Hugging Face cache directory, such as a volume that a download job has filled, in the\n" +
			"Hub's own HTTP API: one pod beside a ReadWriteOnce claim is then the Hub of every agent, by\n" +
			"HF_ENDPOINT or hub.endpoint. Nothing is written, and any user that may read the files will do.\n\n" +
			"What it says of a repository is as true as the directory: agents verify every byte against it, and\n" +
			"nobody verifies it against Hugging Face. WHOEVER REACHES THE ADDRESS MAY READ ALL OF IT, what was\n" +
			"private or gated on the Hub too, unless --token-file is given: then who brings that token may, as\n" +
			"HF_TOKEN, and over http:// anyone on the way can read it. A NetworkPolicy may say who reaches it.\n\n" +
			"/healthz and /readyz say whether it runs, and whether the directory answers.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.serve(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.dir, "cache", "", "the directory: what HF_HUB_CACHE or HF_HOME is for who fills it")
	flags.StringVar(&f.address, "address", ":8080", "address to serve on")
	flags.StringVar(&f.cert, "tls-cert", "", "PEM file of the certificate, and its chain; read anew when it changes. Without one it is plain HTTP")
	flags.StringVar(&f.key, "tls-key", "", "PEM file of that certificate's private key")
	flags.StringVar(&f.tokenFile, "token-file", "", "file of the one token that may read; read anew for each request; empty: anybody may")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (f serveFlags) serve(ctx context.Context) error {
	log, err := newLogger(f.logLevel)
	if err != nil {
		return err
	}
	stdlog.SetOutput(io.Discard) // as the agent does
	h, err := f.open(log)
	if err != nil {
		return err
	}
	log.Info("serving a cache as a Hub", zap.String("version", version), zap.String("dir", f.dir), zap.String("address", h.listener.Addr().String()),
		zap.Bool("tls", h.server.TLSConfig != nil), zap.Bool("to_anybody", f.tokenFile == ""))
	err = h.run(ctx)
	log.Info("serving has stopped", zap.Error(err))
	return err
}

// open checks what is asked for, all at once, and listens.
func (f serveFlags) open(log *zap.Logger) (*hubAPI, error) {
	var wrong []error
	if f.dir == "" {
		wrong = append(wrong, errors.New("--cache: say which directory"))
	} else if err := findDir(f.dir, log); err != nil {
		wrong = append(wrong, fmt.Errorf("--cache: %w", err))
	}
	token, err := nodeToken(f.tokenFile)
	if err != nil {
		wrong = append(wrong, fmt.Errorf("--token-file: %w", err))
	}
	var files *certificate
	switch {
	case (f.cert == "") != (f.key == ""):
		wrong = append(wrong, errors.New("--tls-cert and --tls-key: give both, or none for plain HTTP"))
	case f.cert != "":
		if files, err = openCertificate(f.cert, f.key, log); err != nil {
			wrong = append(wrong, fmt.Errorf("--tls-cert, --tls-key: %w", err))
		}
	}
	address, err := net.ResolveTCPAddr("tcp", f.address)
	if err != nil {
		wrong = append(wrong, fmt.Errorf("--address: %w", err))
	}
	if len(wrong) > 0 {
		return nil, usageError{errors.Join(wrong...)}
	}
	cache, err := hubcache.New(hubcache.Config{Dir: f.dir, Log: log.Named("cache")})
	if err != nil {
		return nil, usageError{err}
	}
	api, err := hubapi.New(hubapi.Config{Library: newSharedLibrary(cache, token, log), Log: log.Named("hubapi")})
	if err != nil {
		return nil, err
	}
	h := &hubAPI{server: newHubServer(withHealth(api, f.dir), log)}
	if files != nil {
		h.server.TLSConfig = files.config()
	}
	l, err := net.ListenTCP("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--address: %w", err)
	}
	h.listener = newOpenCrowd(l)
	return h, nil
}

// withHealth answers /healthz, and /readyz if the directory answers within a moment, and
// leaves all else to api. (A ServeMux would clean the paths of files.)
func withHealth(api http.Handler, dir string) http.Handler {
	asked := make(chan struct{}, 1) // one question at a time: where a volume hangs each keeps a thread
	ready := func(ctx context.Context) error {
		select {
		case asked <- struct{}{}:
		default:
			return errors.New("the directory does not answer")
		}
		found := make(chan error, 1)
		go func() {
			defer func() { <-asked }()
			_, err := os.Stat(dir)
			found <- err
		}()
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		select {
		case err := <-found:
			return err
		case <-ctx.Done():
			return errors.New("the directory does not answer")
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/readyz":
			if err := ready(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fallthrough
		case "/healthz":
			fmt.Fprintln(w, "ok")
		default:
			api.ServeHTTP(w, r)
		}
	})
}
