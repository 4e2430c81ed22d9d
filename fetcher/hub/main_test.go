package hub_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient returns a Client of a Hub at endpoint whose connections end with the test.
func newClient(t testing.TB, endpoint string) *hub.Client {
	t.Helper()
	c, err := hub.New(hub.Config{Endpoint: endpoint, UserAgent: "ballast/test", TokensOverHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

func bytesOf(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return b
}

var sample = map[string][]byte{
	"README.md":                []byte("# a model\n"),
	"empty":                    {},
	"config.json":              []byte(`{"a":1}`),
	"model.safetensors":        bytesOf(100_000, 1),
	"sub/dir/deep/weights.bin": bytesOf(5_000, 2),
	"sub/name with spaces, #?%41 and ünïcode.txt": []byte("odd name\n"),
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func repoOf(t testing.TB, s string) fetcher.Repo { return must[fetcher.Repo](t)(fetcher.ParseRepo(s)) }
func refOf(t testing.TB, s string) fetcher.Ref   { return must[fetcher.Ref](t)(fetcher.ParseRef(s)) }
func pathOf(t testing.TB, s string) fetcher.Path { return must[fetcher.Path](t)(fetcher.ParsePath(s)) }
func commitOf(t testing.TB, s string) fetcher.Commit {
	return must[fetcher.Commit](t)(fetcher.ParseCommit(s))
}

// serve adds the sample to h and returns its Revision.
func serve(t testing.TB, h *hubtest.Hub, name string) fetcher.Revision {
	return fetcher.Revision{Repo: repoOf(t, name), Commit: commitOf(t, h.AddRepo(name, sample))}
}

// open opens a file of main as a Source does.
func open(t testing.TB, h *hubtest.Hub, c *hub.Client, rev fetcher.Revision, path, token string) fetcher.Object {
	t.Helper()
	o, err := c.Open(t.Context(), rev, h.Manifest(rev.Repo.String())[path], fetcher.NewSecret(token))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// read reads n bytes from off.
func read(t testing.TB, o fetcher.Object, off, n int64) ([]byte, error) {
	t.Helper()
	r, err := o.ReadRange(t.Context(), off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func wantBytes(t testing.TB, o fetcher.Object, off, n int64, content []byte) {
	t.Helper()
	got, err := read(t, o, off, n)
	if err != nil || !bytes.Equal(got, content[off:off+n]) {
		t.Errorf("bytes %d+%d: %v, %d bytes, the same: %v", off, n, err, len(got), bytes.Equal(got, content[off:off+n]))
	}
}

// answer makes an Intercept that gives one answer to everything.
func answer(status int, body string, headers ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Del("RateLimit")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
		return true
	}
}
