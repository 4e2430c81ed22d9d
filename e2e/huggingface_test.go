package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/csi/mount"
	"github.com/ballast-csi/ballast/csi/mount/mounttest"
	"github.com/ballast-csi/ballast/fetcher"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// modelFiles is a repository as clients meet them: an LFS file of three Pieces, one
// of one, small files in sub-folders, an empty one, names that need escaping.
func modelFiles() map[string][]byte {
	files := map[string][]byte{
		".gitattributes":                   []byte("*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"),
		"config.json":                      []byte(`{"model_type": "tiny"}`),
		"README.md":                        []byte("---\nlicense: apache-2.0\n---\n# Tiny\n"),
		"model-00001-of-00002.safetensors": pattern(2*fetcher.PieceSize + 12345),
		"model-00002-of-00002.safetensors": pattern(70001),
		"onnx/model.bin":                   pattern(50000),
		"onnx/empty.txt":                   {},
		"onnx/deep/er/a b+c%20d é.json":    []byte(`{"name": "odd"}`),
	}
	for i := range 60 {
		files[fmt.Sprintf("shards/%02d/part-%03d.json", i%4, i)] = fmt.Appendf(nil, `{"shard": %d}`, i)
	}
	return files
}

// pattern is n bytes of which no two Pieces are alike.
func pattern(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d of %d\n", i, n)
	}
	return b.Bytes()[:n]
}

func isLFS(path string) bool {
	return strings.HasSuffix(path, ".safetensors") || strings.HasSuffix(path, ".bin")
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

// filled returns a store with files at commit of a model and a data set.
func filled(t *testing.T, files map[string][]byte) (*store.Store, map[string]*fetcher.Manifest) {
	t.Helper()
	s := storetest.Open(t)
	manifests := map[string]*fetcher.Manifest{}
	for _, name := range []string{"org/tiny", "datasets/org/set"} {
		repo := must(fetcher.ParseRepo(name))(t)
		manifests[name] = storetest.Fill(t, s, repo, must(fetcher.ParseCommit(commit))(t), files, isLFS)
	}
	return s, manifests
}

// endpoint serves s as a Hub and returns its URL.
func endpoint(t *testing.T, s *store.Store) string {
	t.Helper()
	server := httptest.NewServer(must(hubapi.New(hubapi.Config{Library: hubapi.Cached(s)}))(t))
	t.Cleanup(server.Close)
	return server.URL
}

var kinds = map[string]asked{
	"org/tiny":         {Repo: "org/tiny", Type: "model"},
	"datasets/org/set": {Repo: "org/set", Type: "dataset"},
}

func TestRealClientsReadACacheOverHTTP(t *testing.T) {
	files := modelFiles()
	s, _ := filled(t, files)
	url := endpoint(t, s)
	for _, version := range clientVersions {
		for name, k := range kinds {
			t.Run(version+" "+k.Type, func(t *testing.T) {
				client{version: version, script: "online.py", args: []string{askFor(k.Repo, k.Type, commit, files).json(t)},
					env: []string{"HF_ENDPOINT=" + url}, wantCall: 15}.run(t)
				t.Logf("%s read by huggingface_hub %s from %s", name, version, url)
			})
		}
	}
}

// mounted shows a hub-cache View of m, with main, on a directory as a pod sees it.
func mounted(t *testing.T, s *store.Store, m *fetcher.Manifest, keep fetcher.Filter) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "mount")
	volume := store.Volume{ID: "csi-" + filepath.Base(t.TempDir()), Target: target}
	key := store.ViewKey{Revision: m.Revision, Ref: must(fetcher.ParseRef("main"))(t), Filter: keep, Layout: store.HubCache}
	if err := s.AssembleView(t.Context(), key, must(m.Select(t.Context(), keep))(t)); err != nil {
		t.Fatal(err)
	}
	view, ok, err := s.PinView(t.Context(), key, volume)
	if err != nil || !ok {
		t.Fatalf("pin: %v, %v", ok, err)
	}
	mounter := must(mount.New(mount.Config{CacheDir: s.Dir()}))(t)
	if err := mounter.Mount(mount.Spec{View: view.Path, Empty: store.EmptyDir, Source: mount.Source(volume.ID, target), Target: target,
		Bind: mounttest.UserNamespace()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mounter.Unmount(target); err != nil {
			t.Error(err)
		}
		if err := s.Unpin(context.WithoutCancel(t.Context()), volume); err != nil {
			t.Error(err)
		}
	})
	return target
}

func TestRealClientsReadAMountedHubCache(t *testing.T) {
	files := modelFiles()
	s, manifests := filled(t, files)
	url := endpoint(t, s)
	for name, k := range kinds {
		cache := mounted(t, s, manifests[name], fetcher.Filter{})
		for _, version := range clientVersions {
			for _, offline := range []bool{true, false} {
				env, how := []string{"HF_HUB_CACHE=" + cache, "HF_HUB_OFFLINE=1"}, "offline"
				if !offline {
					env, how = []string{"HF_HUB_CACHE=" + cache, "HF_ENDPOINT=" + url}, "online"
				}
				t.Run(version+" "+k.Type+" "+how, func(t *testing.T) {
					a := askFor(k.Repo, k.Type, commit, files)
					a.Offline = offline
					client{version: version, script: "offline.py", args: []string{a.json(t)}, env: env, wantCall: 9}.run(t)
				})
			}
		}
	}
}

// The command line is what people run to see whether a cache is sound; it asks the
// endpoint for the digests and hashes the mount.
func TestHFCacheVerifyFindsAMountSound(t *testing.T) {
	files := modelFiles()
	s, manifests := filled(t, files)
	url, cache := endpoint(t, s), mounted(t, s, manifests["org/tiny"], fetcher.Filter{})
	for _, version := range []string{"1.18.0", "1.28.0", "2.4.0"} {
		hf := filepath.Join(filepath.Dir(python(t, version)), "hf")
		cmd := exec.CommandContext(t.Context(), hf, "cache", "verify", "org/tiny", "--cache-dir", cache, "--fail-on-missing-files", "--fail-on-extra-files")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "HF_ENDPOINT=" + url, "HF_HUB_DISABLE_UPDATE_CHECK=1"}
		out, err := cmd.CombinedOutput()
		t.Logf("%s: %s", version, out)
		if err != nil || !strings.Contains(string(out), fmt.Sprint(len(files))) {
			t.Errorf("hf cache verify %s: %v", version, err)
		}
	}
}

// A View that was filtered lists in trees/ exactly what it holds, so that clients
// that ask for everything take it as complete.
func TestRealClientsTakeAFilteredMountAsComplete(t *testing.T) {
	files := modelFiles()
	s, manifests := filled(t, files)
	keep := must(fetcher.NewFilter([]string{"*.json"}, []string{"shards/03/*"}))(t)
	cache := mounted(t, s, manifests["org/tiny"], keep)
	match := keep.Matcher()
	for path := range files {
		if !match(must(fetcher.ParsePath(path))(t)) {
			delete(files, path)
		}
	}
	for _, version := range clientVersions {
		t.Run(version, func(t *testing.T) {
			a := askFor("org/tiny", "model", commit, files)
			a.Offline = true
			client{version: version, script: "offline.py", args: []string{a.json(t)},
				env: []string{"HF_HUB_CACHE=" + cache, "HF_HUB_OFFLINE=1"}, wantCall: 9}.run(t)
		})
	}
}
