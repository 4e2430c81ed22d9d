package modelexpress_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	other  = "89abcdef0123456789abcdef0123456789abcdef"
)

func revision(t testing.TB, repo, commit string) fetcher.Revision {
	t.Helper()
	return fetcher.Revision{Repo: must(fetcher.ParseRepo(repo))(t), Commit: must(fetcher.ParseCommit(commit))(t)}
}

// bytesOf is n bytes, the same for the same seed.
func bytesOf(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func fileOf(t testing.TB, path string, content []byte) fetcher.File {
	t.Helper()
	h := fetcher.NewHasher(fetcher.SHA256, int64(len(content)))
	h.Write(content)
	return fetcher.File{Path: must(fetcher.ParsePath(path))(t), Size: int64(len(content)), Digest: must(h.Digest())(t)}
}

// write lays files out as a snapshot in a cache directory.
func write(t testing.TB, dir, model, commit string, files map[string][]byte) {
	t.Helper()
	repo := must(fetcher.ParseRepo(model))(t)
	for path, content := range files {
		put(t, filepath.Join(dir, "models--"+repo.Flat(), "snapshots", commit, path), content)
	}
}

func put(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// sample has a file that fits a chunk, one of several, and what a server leaves out.
func sample() map[string][]byte {
	return map[string][]byte{
		"config.json": []byte(`{"a":1}`), "model.safetensors": bytesOf(3<<20+17, 1), "LICENSE": []byte("free\n"),
		"README.md": []byte("# x\n"), ".gitattributes": []byte("*\n"), "1_Pooling/config.json": []byte("{}"), "shot.png": bytesOf(99, 2),
	}
}

// world is a server over a directory, a client of it, and what is upstream.
type world struct {
	t      testing.TB
	server *modelexpresstest.Server
	client *modelexpress.Client
	dir    string
	rev    fetcher.Revision
	files  map[string][]byte
}

// newWorld starts a server of cfg over a cache that has the sample, which it is also
// upstream, and a client.
func newWorld(t testing.TB, server modelexpresstest.Config, client modelexpress.Config) *world {
	t.Helper()
	w := &world{t: t, dir: server.Dir, rev: revision(t, "org/name", commit), files: sample()}
	if server.Dir == "" {
		server.Dir = t.TempDir()
		w.dir = server.Dir
		write(t, w.dir, "org/name", commit, w.files)
		put(t, filepath.Join(w.dir, "models--org--name/refs/main"), []byte(commit))
		server.Offline = server.Upstream == ""
	}
	w.server = must(modelexpresstest.Start(server))(t)
	t.Cleanup(w.server.Close)
	client.URL = w.server.Address
	w.client = newClient(t, client)
	return w
}

func newClient(t testing.TB, cfg modelexpress.Config) *modelexpress.Client {
	t.Helper()
	c := must(modelexpress.New(cfg))(t)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (w *world) file(path string) fetcher.File { return fileOf(w.t, path, w.files[path]) }

// open opens a file of the sample.
func (w *world) open(path string) (fetcher.Object, error) {
	return w.client.Open(w.t.Context(), w.rev, w.file(path), fetcher.NewSecret("a-token-of-the-hub"))
}

// read reads a whole file.
func (w *world) read(path string) ([]byte, error) { return w.readWithin(w.t.Context(), path) }

func (w *world) readWithin(ctx context.Context, path string) ([]byte, error) {
	o, err := w.open(path)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	r, err := o.ReadRange(ctx, 0, int64(len(w.files[path])))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func (w *world) wantWhole(path string) {
	w.t.Helper()
	if got, err := w.read(path); err != nil || !bytes.Equal(got, w.files[path]) {
		w.t.Errorf("%s: %d bytes, as they should be: %v, %v", path, len(got), bytes.Equal(got, w.files[path]), err)
	}
}

func readRange(t testing.TB, o fetcher.Object, off, n int64) ([]byte, error) {
	r, err := o.ReadRange(t.Context(), off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// eventually waits for what happens in another goroutine.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("after 10 s still not: %s", what)
		}
	}
}

func remove(t testing.TB, name string) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
}

func move(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// lacks reports whether a server has no file of this path, ever.
func lacks(path string) bool {
	return strings.Contains(path, "/") || strings.HasPrefix(path, ".") || path == "README.md" || filepath.Ext(path) == ".png"
}

// ensureWithoutWeights asks a server for a model as its own client does at first.
func ensureWithoutWeights(t testing.TB, address string) {
	t.Helper()
	conn := must(grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	defer conn.Close()
	updates := must(modelexpresspb.NewModelServiceClient(conn).EnsureModelDownloaded(t.Context(), &modelexpresspb.ModelDownloadRequest{ModelName: "org/name", IgnoreWeights: true}))(t)
	for {
		if _, err := updates.Recv(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
