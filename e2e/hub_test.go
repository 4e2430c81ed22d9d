package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/fetcher"
	fetcherhub "github.com/ballast-csi/ballast/fetcher/hub"
)

// startHub starts a Hub of other hands (github.com/matrixhub-ai/hfd) on this machine.
func startHub(t *testing.T) *hub.Hub {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "hfd")
	if err := hub.Build(t.Context(), binary); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	h := must(hub.Start(t.Context(), hub.Config{HFD: binary, Listen: "127.0.0.1:0", Dir: t.TempDir(), Output: &said}))(t)
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

// upload fills a repository of h with files, by the real client through preupload, LFS
// and commit, and returns the commit. hub.Upload does the same without Python.
func upload(t *testing.T, h *hub.Hub, repo, kind string, files map[string][]byte) fetcher.Commit {
	t.Helper()
	h.Accounts("hf_any") // upload.py's
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
	said := client{version: uploader, script: "upload.py", args: []string{repo, kind, dir}, env: []string{"HF_ENDPOINT=" + h.URL(), "HF_HUB_DISABLE_XET=1"}}.run(t)
	return must(fetcher.ParseCommit(strings.TrimSpace(said)))(t)
}

// hubClient is the product's own, without connections left over.
func hubClient(t *testing.T, url string) *fetcherhub.Client {
	t.Helper()
	client := must(fetcherhub.New(fetcherhub.Config{Endpoint: url, UserAgent: "ballast/e2e", Log: quiet(t)}))(t)
	t.Cleanup(client.CloseIdle)
	return client
}

func quiet(t *testing.T) *zap.Logger { return zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)) }

// TestAHubOfOtherHandsIsFetchedIntoTheStore: hub client, engine and store, against
// a server that knows nothing of any of them.
func TestAHubOfOtherHandsIsFetchedIntoTheStore(t *testing.T) {
	h, files := startHub(t), modelFiles()
	for name, k := range kinds {
		t.Run(k.Type, func(t *testing.T) {
			uploaded := upload(t, h, k.Repo, k.Type, files)
			repo := must(fetcher.ParseRepo(name))(t)
			s, client := storetest.Open(t), hubClient(t, h.URL())
			commit := must(client.Resolve(t.Context(), repo, must(fetcher.ParseRef("main"))(t), fetcher.Secret{}))(t).Commit
			if commit != uploaded {
				t.Fatalf("main is %s; the upload made %s", commit, uploaded)
			}
			m := must(client.Manifest(t.Context(), fetcher.Revision{Repo: repo, Commit: commit}, fetcher.Secret{}))(t)
			checkManifest(t, m, files)
			engine := must(fetcher.NewEngine(fetcher.EngineConfig{Log: quiet(t)}))(t)
			var got int64
			started := time.Now()
			if err := engine.Fetch(t.Context(), fetcher.Job{
				Sources: []fetcher.Source{client}, Revision: m.Revision, Files: m.Files, Sink: storetest.Sink{Store: s, Repo: repo}, Progress: func(_ string, n int64) { got += n },
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

// TestRealClientsReadAHubOfOtherHands: what the proxy adds to hfd is enough for the
// real clients, each error told from the others.
func TestRealClientsReadAHubOfOtherHands(t *testing.T) {
	h, files := startHub(t), hub.SmallModel(1).Files()
	commit := must(h.Upload(t.Context(), "org/small", files))(t)
	must(h.Upload(t.Context(), "org/gated", files))(t)
	h.Accounts("hf_stranger")
	h.Gated("org/gated", "hf_friend")
	for _, version := range clientVersions {
		t.Run(version, func(t *testing.T) {
			before := h.Traffic("org/small")
			client{version: version, script: "download.py", args: []string{askFor("org/small", "model", commit, files).json(t), "org/gated"},
				env: []string{"HF_ENDPOINT=" + h.URL(), "HF_HUB_DISABLE_XET=1"}, wantCall: 8}.run(t)
			var size int64
			for _, content := range files {
				size += int64(len(content))
			}
			if sent := h.Traffic("org/small").Since(before).Total(); sent != size {
				t.Errorf("%d bytes were sent of a model of %d", sent, size)
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
