package hubapi_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// hidden is a Repo that is cached and that nobody here may read: its files' names and
// contents hold canary.
const (
	hidden = "org/hidden"
	canary = "canary"
)

var hiddenFiles = map[string][]byte{canary + ".bin": []byte(strings.Repeat(canary, 300)), "config.json": []byte(canary)}

// guarded is a Library of everything but hidden.
type guarded struct{ hubapi.Library }

func (g guarded) refuse(repo fetcher.Repo) error {
	if repo.Name() == hidden {
		return fmt.Errorf("%s: %w", repo, fetcher.ErrNotFound)
	}
	return nil
}

func (g guarded) Manifest(ctx context.Context, who hubapi.Caller, repo fetcher.Repo, ref fetcher.Ref) (*fetcher.Manifest, error) {
	if err := g.refuse(repo); err != nil {
		return nil, err
	}
	return g.Library.Manifest(ctx, who, repo, ref)
}

func (g guarded) Refs(ctx context.Context, who hubapi.Caller, repo fetcher.Repo) (map[string]fetcher.Commit, error) {
	if err := g.refuse(repo); err != nil {
		return nil, err
	}
	return g.Library.Refs(ctx, who, repo)
}

// newGuarded returns a Handler that a fuzzer may ask anything.
func newGuarded(t testing.TB) *hubapi.Handler {
	t.Helper()
	s := storetest.Open(t)
	for name, content := range map[string]map[string][]byte{"org/name": files, hidden: hiddenFiles} {
		repo, err := fetcher.ParseRepo(name)
		if err != nil {
			t.Fatal(err)
		}
		at, err := fetcher.ParseCommit(commit)
		if err != nil {
			t.Fatal(err)
		}
		storetest.Fill(t, s, repo, at, content, isLFS)
	}
	h, err := hubapi.New(hubapi.Config{Library: guarded{hubapi.Cached(s)}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// FuzzRequest: whatever one sends, it is answered; a client's mistake is never this
// server's; nothing of another Repo comes, and never more than is there.
func FuzzRequest(f *testing.F) {
	form := "Content-Type: application/x-www-form-urlencoded\r\n"
	for _, seed := range []string{
		"GET /org/name/resolve/main/config.json HTTP/1.1\r\nHost: h\r\nRange: bytes=1-3\r\n\r\n",
		"GET /org/name/resolve/main/model.safetensors HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1,3-4,0-9\r\nIf-Range: \"x\"\r\n\r\n",
		"HEAD /org/name/resolve/main/onnx/model.bin HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer hf_x\r\n\r\n",
		"GET /org/name/resolve/main/empty HTTP/1.0\r\nAuthorization: Basic eDp5\r\nAuthorization: Bearer x\r\nIf-None-Match: *\r\n\r\n",
		"GET /api/models/org/name/tree/main/onnx?recursive=True&limit=1&cursor=b25ueC8 HTTP/1.1\r\nHost: h\r\nX-Forwarded-Host: a>b\r\nX-Forwarded-Proto: https,http\r\n\r\n",
		"GET /api/models/org/hidden?blobs=true HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n",
		"GET /org%2Fname/../hidden/resolve/main/config.json HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET //org/hidden%00/resolve/%2e%2e/..%2fconfig.json HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET http://h/api/datasets/org/name/refs HTTP/1.1\r\nHost: other\r\n\r\n",
		"POST /api/models/org/name/paths-info/main HTTP/1.1\r\nHost: h\r\n" + form + "Content-Length: 30\r\n\r\npaths=config.json&paths=onnx/&",
		"POST /api/models/org/name/paths-info/main HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{\"paths\":[\"config.json\",\"a\"]}}",
		"POST /api/models/org/name/paths-info/main HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + form + "\r\n5\r\npaths\r\n0\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
		"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	h := newGuarded(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return // net/http answers by itself
		}
		r.RemoteAddr = "10.0.0.1:1234"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		if told := bytes.Contains(raw, []byte(canary)); !told && strings.Contains(fmt.Sprint(w.Header(), w.Body), canary) {
			t.Fatalf("another Repo's: %v %s", w.Header(), w.Body)
		}
		if most := len(files["model.safetensors"]) + 8*len(raw) + 8<<10; w.Body.Len() > most {
			t.Fatalf("%d bytes for a request of %d", w.Body.Len(), len(raw))
		}
	})
}

// FuzzPathsInfo: the one body that is read.
func FuzzPathsInfo(f *testing.F) {
	f.Add("application/json", []byte(`{"paths":["config.json","onnx",""],"expand":true}`))
	f.Add("application/json; charset=\"", []byte(`{"paths":`+strings.Repeat("[", 2000)))
	f.Add("application/json", []byte(`{"paths":{"a":1},"PATHS":["onnx"]}null`))
	f.Add("application/x-www-form-urlencoded", []byte("paths=config.json&paths=config.json&paths=onnx%2F&paths=%zz;"))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=paths\r\n\r\nempty\r\n--x--"))
	h := newGuarded(f)
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/api/models/org/name/paths-info/main", io.NopCloser(bytes.NewReader(body)))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		if w.Body.Len() > 8<<10 {
			t.Fatalf("%d bytes about %d files", w.Body.Len(), len(files))
		}
	})
}
