package hubapi_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const commit = "0123456789abcdef0123456789abcdef01234567"

var files = map[string][]byte{
	"config.json":       []byte(`{"model_type":"tiny"}`),
	"model.safetensors": bytes.Repeat([]byte("weights "), 1<<15),
	"empty":             {},
	"onnx/model.bin":    bytes.Repeat([]byte("onnx"), 1000),
	"onnx/deep/é ü.txt": []byte("text"),
}

func isLFS(path string) bool {
	return strings.HasSuffix(path, ".safetensors") || strings.HasSuffix(path, ".bin")
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// filled returns a store with files at commit of each repository.
func filled(t *testing.T, repos ...string) (*store.Store, []fetcher.Repo) {
	t.Helper()
	s := storetest.Open(t)
	var parsed []fetcher.Repo
	for _, name := range repos {
		repo := must(fetcher.ParseRepo(name))(t)
		storetest.Fill(t, s, repo, must(fetcher.ParseCommit(commit))(t), files, isLFS)
		parsed = append(parsed, repo)
	}
	return s, parsed
}

// serve starts a Handler of lib on a real socket.
func serve(t *testing.T, lib hubapi.Library) string {
	t.Helper()
	h := must(hubapi.New(hubapi.Config{Library: lib}))(t)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

type reply struct {
	*http.Response
	body []byte
}

// ask sends one request without following redirects; headers are "Key: value".
func ask(t *testing.T, method, url string, body io.Reader, headers ...string) reply {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), method, url, body))(t)
	req.Header.Set("Accept-Encoding", "identity")
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		req.Header.Set(key, value)
	}
	res := must(http.DefaultTransport.RoundTrip(req))(t)
	defer res.Body.Close()
	return reply{res, must(io.ReadAll(res.Body))(t)}
}

// wantJSON checks a 200 and decodes its body.
func wantJSON[T any](t *testing.T, r reply) T {
	t.Helper()
	var v T
	if r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s", r.Request.URL, r.Status, r.body)
	}
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%s: %v in %s", r.Request.URL, err, r.body)
	}
	return v
}

func sha256Of(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

func gitBlobOf(b []byte) string {
	s := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(b)), b...))
	return hex.EncodeToString(s[:])
}

func etagOf(path string) string {
	if isLFS(path) {
		return `"` + sha256Of(files[path]) + `"`
	}
	return `"` + gitBlobOf(files[path]) + `"`
}

func fileURL(base, repo, ref, path string) string {
	return base + "/" + repo + "/resolve/" + url.PathEscape(ref) + "/" + (&url.URL{Path: path}).EscapedPath()
}

func TestFilesComeWithTheHeadersThatClientsRead(t *testing.T) {
	s, _ := filled(t, "org/name", "datasets/org/set", "gpt2")
	base := serve(t, hubapi.Cached(s))
	for _, repo := range []string{"org/name", "datasets/org/set", "gpt2"} {
		for _, ref := range []string{"main", commit} {
			for path, content := range files {
				address := fileURL(base, repo, ref, path)
				head, get := ask(t, "HEAD", address, nil), ask(t, "GET", address, nil)
				if get.StatusCode != 200 || !bytes.Equal(get.body, content) {
					t.Errorf("%s: %s, %d bytes; want %d", address, get.Status, len(get.body), len(content))
				}
				for name, want := range map[string]string{
					"ETag": etagOf(path), "X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Content-Length": fmt.Sprint(len(content)),
					"Location": "", "X-Xet-Hash": "", "Content-Encoding": "",
				} {
					if got := head.Header.Get(name); head.StatusCode != 200 || got != want || get.Header.Get(name) != want {
						t.Errorf("HEAD %s: %s: %s %q, GET %q; want %q", address, head.Status, name, got, get.Header.Get(name), want)
					}
				}
				linkedEtag, linkedSize := "", ""
				if isLFS(path) {
					linkedEtag, linkedSize = etagOf(path), fmt.Sprint(len(content))
				}
				if head.Header.Get("X-Linked-Etag") != linkedEtag || head.Header.Get("X-Linked-Size") != linkedSize {
					t.Errorf("HEAD %s: linked %q of %q bytes; want %q of %q", address, head.Header.Get("X-Linked-Etag"), head.Header.Get("X-Linked-Size"), linkedEtag, linkedSize)
				}
			}
		}
	}
	r := ask(t, "HEAD", fileURL(base, "org/name", "main", "onnx/deep/é ü.txt"), nil)
	if got := r.Header.Get("Content-Disposition"); !strings.Contains(got, "filename*=utf-8''%C3%A9%20%C3%BC.txt") {
		t.Errorf("Content-Disposition %q does not carry the name", got)
	}
}

func TestRangesAreExactAndEndWhereTheFileEnds(t *testing.T) {
	s, _ := filled(t, "org/name")
	base := serve(t, hubapi.Cached(s))
	const path = "model.safetensors"
	whole := files[path]
	size := len(whole)
	address := fileURL(base, "org/name", commit, path)
	for _, c := range []struct {
		header, ifRange string
		status          int
		from, to        int
	}{
		{"bytes=0-0", "", 206, 0, 1},
		{"bytes=100-199", "", 206, 100, 200},
		{fmt.Sprintf("bytes=%d-", size-7), "", 206, size - 7, size},
		{"bytes=-5", "", 206, size - 5, size},
		{fmt.Sprintf("bytes=10-%d", size+1000), "", 206, 10, size},
		{"bytes=100-199", etagOf(path), 206, 100, 200},
		{"bytes=100-199", `"another"`, 200, 0, size},
	} {
		headers := []string{"Range: " + c.header}
		if c.ifRange != "" {
			headers = append(headers, "If-Range: "+c.ifRange)
		}
		r := ask(t, "GET", address, nil, headers...)
		if r.StatusCode != c.status || !bytes.Equal(r.body, whole[c.from:c.to]) {
			t.Errorf("%s if %s: %s with %d bytes; want %d with bytes %d to %d", c.header, c.ifRange, r.Status, len(r.body), c.status, c.from, c.to)
		}
		if want := fmt.Sprintf("bytes %d-%d/%d", c.from, c.to-1, size); c.status == 206 && r.Header.Get("Content-Range") != want {
			t.Errorf("%s: Content-Range %q; want %q", c.header, r.Header.Get("Content-Range"), want)
		}
	}
	r := ask(t, "GET", address, nil, fmt.Sprintf("Range: bytes=%d-", size))
	if r.StatusCode != http.StatusRequestedRangeNotSatisfiable || r.Header.Get("Content-Range") != fmt.Sprintf("bytes */%d", size) {
		t.Errorf("a range past the end: %s, Content-Range %q", r.Status, r.Header.Get("Content-Range"))
	}
	if r := ask(t, "GET", address, nil, "If-None-Match: "+etagOf(path)); r.StatusCode != http.StatusNotModified {
		t.Errorf("the same ETag: %s; want 304", r.Status)
	}
}

type treeEntry struct {
	Type, OID, Path string
	Size            int64
	LFS             *struct {
		OID         string
		Size        int64
		PointerSize int
	}
	XetHash *string
}

func TestTreeListsWhatIsThereOnEveryPage(t *testing.T) {
	s, _ := filled(t, "org/name")
	base := serve(t, hubapi.Cached(s))
	for _, c := range []struct{ path, query, want string }{
		{"main", "", "config.json empty model.safetensors onnx/"},
		{"main", "recursive=true", "config.json empty model.safetensors onnx/ onnx/deep/ onnx/deep/é ü.txt onnx/model.bin"},
		{"main/onnx", "", "onnx/deep/ onnx/model.bin"},
		{commit + "/onnx", "recursive=True&expand=True", "onnx/deep/ onnx/deep/é ü.txt onnx/model.bin"},
	} {
		for _, limit := range []int{1, 2, 3, 1000} {
			next := fmt.Sprintf("%s/api/models/org/name/tree/%s?%s&limit=%d", base, c.path, c.query, limit)
			var got []string
			for pages := 0; next != "" && pages < 20; pages++ {
				r := ask(t, "GET", next, nil)
				page := wantJSON[[]treeEntry](t, r)
				if len(page) == 0 || len(page) > limit {
					t.Errorf("%s: a page of %d", next, len(page))
				}
				for _, e := range page {
					checkEntry(t, e)
					got = append(got, e.Path+map[string]string{"directory": "/"}[e.Type])
				}
				next = ""
				if link := r.Header.Get("Link"); link != "" {
					next = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%s?%s by %d: got %q; want %q", c.path, c.query, limit, got, c.want)
			}
		}
	}
}

// The next page's address is a whole URL, as huggingface_hub needs it, of the server
// that the client knows. What else a header says of that has no say.
func TestNextPageIsWhereTheClientAsked(t *testing.T) {
	s, _ := filled(t, "org/name")
	h := must(hubapi.New(hubapi.Config{Library: hubapi.Cached(s)}))(t)
	for scheme, start := range map[string]func(http.Handler) *httptest.Server{"http": httptest.NewServer, "https": httptest.NewTLSServer} {
		server := start(h)
		defer server.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/models/org/name/tree/main?limit=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-Proto", "gopher")
		req.Header.Set("X-Forwarded-Host", "evil.example")
		res, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if link := res.Header.Get("Link"); !strings.HasPrefix(link, "<"+server.URL+"/api/models/org/name/tree/main?") {
			t.Errorf("%s: %s", scheme, link)
		}
	}
}

func checkEntry(t *testing.T, e treeEntry) {
	t.Helper()
	if e.XetHash != nil || len(e.OID) != 40 {
		t.Errorf("%s: oid %q, Xet hash %v", e.Path, e.OID, e.XetHash)
	}
	if e.Type == "directory" {
		return
	}
	content := files[e.Path]
	switch {
	case e.Size != int64(len(content)):
		t.Errorf("%s: %d bytes; want %d", e.Path, e.Size, len(content))
	case isLFS(e.Path) != (e.LFS != nil):
		t.Errorf("%s: LFS %v", e.Path, e.LFS)
	case e.LFS == nil && e.OID != gitBlobOf(content):
		t.Errorf("%s: oid %s; want %s", e.Path, e.OID, gitBlobOf(content))
	case e.LFS != nil && (e.LFS.OID != sha256Of(content) || e.LFS.Size != e.Size || e.LFS.PointerSize < 120):
		t.Errorf("%s: LFS %+v", e.Path, *e.LFS)
	}
}

func TestInfoAndPathsInfoAndRefsSpeakToTheHubsClients(t *testing.T) {
	s, repos := filled(t, "org/name", "datasets/org/set")
	pr := must(fetcher.ParseRef("refs/pr/1"))(t)
	if err := s.SetRef(store.Origin{Repo: repos[0]}, pr, store.RefRecord{Commit: must(fetcher.ParseCommit(commit))(t), Authority: "hub"}); err != nil {
		t.Fatal(err)
	}
	base := serve(t, hubapi.Cached(s))
	type repoInfo struct {
		ID, SHA  string
		Private  *bool
		Gated    *bool
		Siblings []struct {
			RFilename string
			Size      *int64
			BlobID    string
			LFS       *struct{ SHA256 string }
		}
	}
	for path, id := range map[string]string{
		"models/org/name": "org/name", "models/org/name/revision/main": "org/name", "models/org/name/revision/" + commit: "org/name",
		"models/org/name/revision/refs%2Fpr%2F1": "org/name", "datasets/org/set?blobs=true": "org/set",
	} {
		got := wantJSON[repoInfo](t, ask(t, "GET", base+"/api/"+path, nil))
		if got.ID != id || got.SHA != commit || len(got.Siblings) != len(files) || got.Private == nil || *got.Private || got.Gated == nil || *got.Gated {
			t.Errorf("%s: %+v", path, got)
		}
		for _, f := range got.Siblings {
			_, known := files[f.RFilename]
			if blobs := strings.Contains(path, "blobs"); !known || (f.Size != nil) != blobs || (f.LFS != nil) != (blobs && isLFS(f.RFilename)) {
				t.Errorf("%s: %+v", path, f)
			}
		}
	}
	asked := base + "/api/models/org/name/paths-info/main"
	for kind, body := range map[string]string{
		"application/x-www-form-urlencoded": "paths=config.json&paths=onnx&paths=missing&expand=True",
		"application/json":                  `{"paths":["config.json","onnx","missing"],"expand":true}`,
	} {
		got := wantJSON[[]treeEntry](t, ask(t, "POST", asked, strings.NewReader(body), "Content-Type: "+kind))
		if len(got) != 2 || got[0].Path != "config.json" || got[1].Type != "directory" {
			t.Errorf("paths-info as %s: %+v", kind, got)
		}
	}
	refs := wantJSON[map[string][]struct{ Name, Ref, TargetCommit string }](t, ask(t, "GET", base+"/api/models/org/name/refs", nil))
	if b, p := refs["branches"], refs["pullRequests"]; len(b) != 1 || b[0].Name != "main" || b[0].TargetCommit != commit || len(p) != 1 || p[0].Ref != "refs/pr/1" {
		t.Errorf("refs: %+v", refs)
	}
	if r := ask(t, "GET", base+"/api/models/org/name/auth-check", nil); r.StatusCode != 200 {
		t.Errorf("auth-check: %s", r.Status)
	}
}

// refusing is a Library that refuses everything with err, or only Open.
type refusing struct {
	hubapi.Library
	err      error
	onlyOpen bool
	seen     *fetcher.Secret
}

func (l refusing) Manifest(ctx context.Context, who hubapi.Caller, repo fetcher.Repo, ref fetcher.Ref) (*fetcher.Manifest, error) {
	*l.seen = who.Token
	if l.onlyOpen {
		return l.Library.Manifest(ctx, who, repo, ref)
	}
	return nil, fmt.Errorf("ask: %w", l.err)
}

func (l refusing) Open(context.Context, hubapi.Caller, fetcher.Revision, fetcher.File) (io.ReadSeekCloser, error) {
	return nil, fmt.Errorf("open: %w", l.err)
}
