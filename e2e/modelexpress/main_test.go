package modelexpress

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
	client "github.com/ballast-csi/ballast/fetcher/modelexpress"
)

const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	newer  = "89abcdef0123456789abcdef0123456789abcdef"
	third  = "fedcba9876543210fedcba9876543210fedcba98" // that no server has
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// program returns the server of a release, or skips the test where it cannot be built. The
// older one is built only if that is asked for: it takes as long again.
func program(t *testing.T, version string) string {
	t.Helper()
	name, err := Install(t.Context(), os.Stdout, version)
	if errors.Is(err, ErrNoTools) || errors.Is(err, ErrNotAskedFor) {
		t.Skipf("modelexpress-server %s: %v", version, err)
	}
	return must(name, err)(t)
}

// files is a repository: what the server serves in several sizes, and what it does not.
func files() map[string][]byte {
	random := rand.NewChaCha8([32]byte{5})
	content := map[string][]byte{
		"config.json": []byte(`{"model_type": "tiny"}`), "LICENSE": []byte("free\n"), "empty.txt": {},
		"README.md": []byte("# tiny\n"), ".gitattributes": []byte("*.bin filter=lfs\n"), "1_Pooling/config.json": []byte("{}"), "logo.png": []byte("png"),
	}
	for name, size := range map[string]int{"one.bin": 1, "chunk.bin": 1 << 20, "more.bin": 1<<20 + 1, "piece.bin": fetcher.PieceSize, "model.safetensors": 5*fetcher.PieceSize + 12345} {
		content[name] = make([]byte, size)
		random.Read(content[name])
	}
	return content
}

func isLFS(path string) bool {
	return strings.HasSuffix(path, ".bin") || strings.HasSuffix(path, ".safetensors")
}

// served reports whether the server's downloader brings a file of this path.
func served(path string) bool {
	return !strings.Contains(path, "/") && !strings.HasPrefix(path, ".") && path != "README.md" && !strings.HasSuffix(path, ".png")
}

// lay writes a snapshot as the server's downloader does, and has main be it.
func lay(t testing.TB, dir, commit string, content map[string][]byte) {
	t.Helper()
	for path, b := range content {
		if served(path) {
			put(t, filepath.Join(dir, "models--org--tiny/snapshots", commit, path), b)
		}
	}
	put(t, filepath.Join(dir, "models--org--tiny/refs/main"), []byte(commit))
}

func put(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// start runs a server over dir until the test ends.
func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	var said bytes.Buffer
	cfg.Log = &said
	s := must(Start(t.Context(), cfg))(t)
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("the server said:\n%s", said.String())
		}
	})
	return s
}

// fetch brings files of a manifest from a server, by way of a real engine into a real
// store, and tells who was passed over for what.
func fetch(t *testing.T, s *store.Store, from fetcher.Source, m *fetcher.Manifest, want ...fetcher.File) (passed map[string]error, err error) {
	t.Helper()
	passed = map[string]error{}
	engine := must(fetcher.NewEngine(fetcher.EngineConfig{}))(t)
	return passed, engine.Fetch(t.Context(), fetcher.Job{
		Sources: []fetcher.Source{from}, Revision: m.Revision, Files: want, Sink: storetest.Sink{Store: s, Repo: m.Revision.Repo},
		Passed: func(p fetcher.Passed) { passed[p.File.Path.String()] = p.Err },
	})
}

func manifest(t *testing.T, commit string, content map[string][]byte) *fetcher.Manifest {
	return storetest.Manifest(t, must(fetcher.ParseRepo("org/tiny"))(t), must(fetcher.ParseCommit(commit))(t), content, isLFS)
}

func connect(t *testing.T, url string) *client.Client {
	t.Helper()
	c := must(client.New(client.Config{URL: url}))(t)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
