package hub_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/fetcher"
	client "github.com/ballast-csi/ballast/fetcher/hub"
)

// binary is hfd, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "hfd")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "hfd")
		if err := hub.Build(context.Background(), binary); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// start starts a Hub with pages of so many entries; 0 for the real Hub's.
func start(t *testing.T, pageSize int) *hub.Hub {
	t.Helper()
	var said bytes.Buffer
	h := must(hub.Start(t.Context(), hub.Config{HFD: binary, Listen: "127.0.0.1:0", Dir: t.TempDir(), Output: &said, PageSize: pageSize}))(t)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("hfd said:\n%s", said.String())
		}
	})
	return h
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newClient is the product's own, without connections left over.
func newClient(t *testing.T, h *hub.Hub) *client.Client {
	t.Helper()
	c := must(client.New(client.Config{Endpoint: h.URL(), UserAgent: "ballast/e2e", Log: zaptest.NewLogger(t), TokensOverHTTP: true}))(t)
	t.Cleanup(c.CloseIdle)
	return c
}

func repoOf(t *testing.T, name string) fetcher.Repo {
	t.Helper()
	return must(fetcher.ParseRepo(name))(t)
}

func refOf(t *testing.T, ref string) fetcher.Ref {
	t.Helper()
	return must(fetcher.ParseRef(ref))(t)
}

func pathOf(t *testing.T, path string) fetcher.Path {
	t.Helper()
	return must(fetcher.ParsePath(path))(t)
}

// upload fills repo and returns the Revision that came of it.
func upload(t *testing.T, h *hub.Hub, repo string, files map[string][]byte) fetcher.Revision {
	t.Helper()
	commit := must(h.Upload(t.Context(), repo, files))(t)
	return fetcher.Revision{Repo: repoOf(t, repo), Commit: must(fetcher.ParseCommit(commit))(t)}
}

// fetch lists rev and brings all of it into s, as the agent does. A read that brings
// nothing for stall is tried again; 0 is the engine's own.
func fetch(t *testing.T, h *hub.Hub, s *store.Store, rev fetcher.Revision, stall time.Duration) error {
	t.Helper()
	c := newClient(t, h)
	m := must(c.Manifest(t.Context(), rev, fetcher.Secret{}))(t)
	engine := must(fetcher.NewEngine(fetcher.EngineConfig{Stall: stall, Log: zaptest.NewLogger(t)}))(t)
	return engine.Fetch(t.Context(), fetcher.Job{Sources: []fetcher.Source{c}, Revision: rev, Files: m.Files, Sink: storetest.Sink{Store: s, Repo: rev.Repo}})
}

// get reads url with token, and returns the answer with all of its body.
func get(t *testing.T, method, url, token string) (*http.Response, []byte) {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), method, url, nil))(t)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res := must(http.DefaultTransport.RoundTrip(req))(t)
	defer res.Body.Close()
	return res, must(io.ReadAll(res.Body))(t)
}

func sha256Of(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }
