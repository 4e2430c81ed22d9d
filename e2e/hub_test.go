package e2e

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
)

// hfd starts github.com/matrixhub-ai/hfd, a Hub written by others, on this machine
// and returns its URL.
func hfd(t *testing.T) string {
	t.Helper()
	binary := build(t, "github.com/matrixhub-ai/hfd/cmd/hfd")
	address, ssh := freeAddress(t), freeAddress(t)
	url := "http://" + address
	var said bytes.Buffer
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, binary, "-addr", address, "-ssh-addr", ssh, "-host-url", url, "-data", t.TempDir())
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1")
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); !stopped(err) {
			t.Errorf("hfd ended by itself: %v", err)
		}
		if t.Failed() {
			t.Logf("hfd said:\n%s", said.String())
		}
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return url
		}
		select {
		case <-tick.C:
		case <-limit.Done():
			t.Fatalf("hfd does not listen on %s: %v\n%s", address, err, said.String())
		}
	}
}

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	return l.Addr().String()
}

// upload fills url's repository with files, by the real client through preupload,
// LFS and commit, and returns the commit.
func upload(t *testing.T, url, repo, kind string, files map[string][]byte) fetcher.Commit {
	t.Helper()
	dir := t.TempDir()
	for path, content := range files {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	said := client{version: uploader, script: "upload.py", args: []string{repo, kind, dir}, env: []string{"HF_ENDPOINT=" + url, "HF_HUB_DISABLE_XET=1"}}.run(t)
	return must(fetcher.ParseCommit(strings.TrimSpace(said)))(t)
}

// hubClient is the product's own, without connections left over.
func hubClient(t *testing.T, url string) *hub.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return must(hub.New(hub.Config{Endpoint: url, UserAgent: "ballast/e2e", Log: quiet(t), Transport: transport}))(t)
}

func quiet(t *testing.T) *zap.Logger { return zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)) }

// sink brings what the engine fetches into a store, nothing else.
type sink struct {
	store *store.Store
	repo  fetcher.Repo
}

func (s sink) Begin(_ context.Context, f fetcher.File) (fetcher.Ingest, error) {
	if s.store.HasBlob(f.Digest) {
		return nil, nil
	}
	return s.store.Ingest(s.repo, f)
}

func (s sink) Commit(ctx context.Context, verified []fetcher.Ingest) error {
	var ins []*store.Ingest
	for _, in := range verified {
		ins = append(ins, in.(*store.Ingest))
	}
	return s.store.Commit(ctx, ins)
}

// TestAHubOfOtherHandsIsFetchedIntoTheStore: hub client, engine and store, against
// a server that knows nothing of any of them.
func TestAHubOfOtherHandsIsFetchedIntoTheStore(t *testing.T) {
	url, files := hfd(t), modelFiles()
	for name, k := range kinds {
		t.Run(k.Type, func(t *testing.T) {
			uploaded := upload(t, url, k.Repo, k.Type, files)
			repo := must(fetcher.ParseRepo(name))(t)
			s, client := storetest.Open(t), hubClient(t, url)
			commit := must(client.Resolve(t.Context(), repo, must(fetcher.ParseRef("main"))(t), fetcher.Secret{}))(t)
			if commit != uploaded {
				t.Fatalf("main is %s; the upload made %s", commit, uploaded)
			}
			m := must(client.Manifest(t.Context(), fetcher.Revision{Repo: repo, Commit: commit}, fetcher.Secret{}))(t)
			checkManifest(t, m, files)
			engine := must(fetcher.NewEngine(fetcher.EngineConfig{Log: quiet(t)}))(t)
			var got int64
			started := time.Now()
			if err := engine.Fetch(t.Context(), fetcher.Job{
				Source: client, Revision: m.Revision, Files: m.Files, Sink: sink{s, repo}, Progress: func(n int64) { got += n },
			}); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %d files, %d bytes in %s", m.Revision, len(m.Files), got, time.Since(started).Round(time.Millisecond))
			if got != m.Bytes() {
				t.Errorf("progress told of %d bytes; want %d", got, m.Bytes())
			}
			for _, f := range m.Files {
				blob := must(s.OpenBlob(f.Digest))(t)
				var content bytes.Buffer
				if _, err := content.ReadFrom(blob); err != nil {
					t.Error(err)
				}
				blob.Close()
				if want := files[f.Path.String()]; sha256Of(content.Bytes()) != sha256Of(want) {
					t.Errorf("%s: other bytes than were uploaded", f.Path)
				}
			}
		})
	}
}

// checkManifest compares what the Hub lists with what was uploaded. The Hub adds a
// .gitattributes of its own where there is none.
func checkManifest(t *testing.T, m *fetcher.Manifest, files map[string][]byte) {
	t.Helper()
	listed := map[string]fetcher.File{}
	for _, f := range m.Files {
		listed[f.Path.String()] = f
	}
	for path, content := range files {
		f, ok := listed[path]
		if !ok || f.Size != int64(len(content)) {
			t.Errorf("%s: listed %t with %d bytes; want %d", path, ok, f.Size, len(content))
		}
		if isLFS(path) && f.Digest.Hex() != sha256Of(content) {
			t.Errorf("%s: %s; want sha256 %s", path, f.Digest, sha256Of(content))
		}
	}
	if len(listed) != len(files) {
		t.Errorf("%d files listed; want %d", len(listed), len(files))
	}
}
