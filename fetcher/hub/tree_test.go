package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestEndlessListingIsRefused(t *testing.T) {
	for _, c := range []struct {
		filler, pages int
		want          string
	}{{0, maxPages, "does not end"}, {100_000, 6, "longer"}} {
		h := hubtest.New(t)
		page, filler := 0, strings.Repeat(" ", c.filler)
		h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			page++
			w.Header().Set("Link", fmt.Sprintf(`<%s?cursor=%d>; rel="next"`, r.URL.Path, page))
			fmt.Fprintf(w, `[%s{}]`, filler)
			return true
		})
		client, err := New(Config{Endpoint: h.URL()})
		if err != nil {
			t.Fatal(err)
		}
		defer client.CloseIdle()
		client.maxAnswer = 512 << 10
		repo, err := fetcher.ParseRepo("org/name")
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Manifest(t.Context(), fetcher.Revision{Repo: repo}, fetcher.Secret{})
		if !errors.Is(err, fetcher.ErrMalformed) || !strings.Contains(err.Error(), c.want) || page != c.pages {
			t.Errorf("after %d pages: %v", page, err)
		}
	}
}

// endless answers with start, and then with part until nobody reads any more or 64
// MiB are sent.
func endless(start, part string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		fmt.Fprint(w, start)
		chunk := []byte(strings.Repeat(part, 32<<10/len(part)))
		for sent := 0; sent < 64<<20; sent += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				break
			}
		}
		return true
	}
}

// What is sent to us takes no memory but for what we keep.
func TestHostileAnswersTakeLittleMemory(t *testing.T) {
	const path = `{"type":"file","oid":"0123456789abcdef0123456789abcdef01234567","size":3,"path":"`
	for name, c := range map[string]struct {
		start, part string
		want        error // of a listing; nil: Unreachable
	}{
		"numbers":               {`[0`, `,0`, fetcher.ErrMalformed},
		"empty objects":         {`[{}`, `,{}`, fetcher.ErrMalformed},
		"directories":           {`[{"type":"directory"}`, `,{"type":"directory"}`, fetcher.ErrMalformed},
		"a path without an end": {`[` + path, `a`, fetcher.ErrMalformed},
		"an object without end": {`[{"type":"file"`, `,"x":0`, fetcher.ErrMalformed},
		"arrays in arrays":      {``, `[`, nil},
		"white space":           {``, `    `, fetcher.ErrMalformed},
	} {
		h := hubtest.New(t)
		h.Intercept(endless(c.start, c.part))
		client, err := New(Config{Endpoint: h.URL()})
		if err != nil {
			t.Fatal(err)
		}
		client.maxEntries = 10_000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		rev := revisionOf(t)
		_, listed := client.Manifest(t.Context(), rev, fetcher.Secret{})
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; fetcher.Unreachable(listed) != (c.want == nil) || c.want != nil && !errors.Is(listed, c.want) || took > 24<<20 {
			t.Errorf("%s: %d KiB were allocated: %v", name, took>>10, listed)
		}
		client.CloseIdle()
	}
}

// The info of a repository lists all its files, before or after what we want of it.
func TestResolveReadsTheCommitOutOfALongAnswer(t *testing.T) {
	rev := revisionOf(t)
	for name, c := range map[string]struct {
		start, part, end string
		ok               bool
	}{
		"before the files": {`{"_id":"6a","id":"org/name","sha":"` + rev.Commit.String() + `","siblings":[0`, `,{"rfilename":"a"}`, ``, true},
		"without an _id":   {`{"sha":"` + rev.Commit.String() + `","siblings":[0`, `,{"rfilename":"a"}`, ``, false},
		"never":            {`{"siblings":[0`, `,{"rfilename":"a"}`, `]}`, false},
		"too deep":         {`{"siblings":`, `[`, ``, false},
		"too long":         {`{"siblings":"`, `a`, ``, false},
	} {
		h := hubtest.New(t)
		h.Intercept(endless(c.start, c.part))
		client, err := New(Config{Endpoint: h.URL()})
		if err != nil {
			t.Fatal(err)
		}
		if !c.ok {
			client.maxAnswer = 1 << 20
		}
		got, err := client.Resolve(t.Context(), rev.Repo, rev.Commit.Ref(), fetcher.Secret{})
		if c.ok != (err == nil) || c.ok && (got.Commit != rev.Commit || got.RepoID != "6a") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		client.CloseIdle()
	}
	h := hubtest.New(t)
	h.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		fmt.Fprint(w, `{"x":{"sha":"no"},"n":1e999,"siblings":[`+strings.Repeat(`{"rfilename":"a","sha":"no"},`, 10_000)+`null],"sha":"`+rev.Commit.String()+`","_id":"6b"}`)
		return true
	})
	client, err := New(Config{Endpoint: h.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdle()
	if got, err := client.Resolve(t.Context(), rev.Repo, rev.Commit.Ref(), fetcher.Secret{}); err != nil || got.Commit != rev.Commit || got.RepoID != "6b" {
		t.Errorf("after the files: %v, %v", got, err)
	}
}

// A proxy that ends TLS leaves its Hub to believe that it is spoken to in plain HTTP.
func TestNextPageIsAskedWhereTheEndpointIs(t *testing.T) {
	var asked []string
	tls := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RequestURI())
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			t.Error(err)
		}
		switch len(asked) {
		case 1:
			w.Header().Set("Link", `<http://`+r.Host+r.URL.Path+`?cursor=1>; rel="next"`)
		case 2:
			w.Header().Set("Link", `<http://`+host+r.URL.Path+`?cursor=2>; rel="next"`)
		case 3:
			w.Header().Set("Link", `<https://`+host+`:8443`+r.URL.Path+`?cursor=3>; rel="next"`)
		}
		if r.Header.Get("Authorization") != "Bearer hf_x" {
			t.Errorf("page %d was asked for as %q", len(asked), r.Header.Get("Authorization"))
		}
		fmt.Fprint(w, `[]`)
	}))
	defer tls.Close()
	client, err := New(Config{Endpoint: tls.URL})
	if err != nil {
		t.Fatal(err)
	}
	client.transport = tls.Client().Transport.(*http.Transport)
	if _, err := client.Manifest(t.Context(), revisionOf(t), fetcher.NewSecret("hf_x")); err != nil || len(asked) != 4 || !strings.HasSuffix(asked[3], "?cursor=3") {
		t.Errorf("%v: %v", asked, err)
	}
}

func revisionOf(t *testing.T) fetcher.Revision {
	t.Helper()
	repo, err1 := fetcher.ParseRepo("org/name")
	commit, err2 := fetcher.ParseCommit("0123456789abcdef0123456789abcdef01234567")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return fetcher.Revision{Repo: repo, Commit: commit}
}

func FuzzTree(f *testing.F) {
	for _, s := range []string{
		`[]`, `[null]`, `[{"type":"directory","path":"d"}]`, `[{"oid":"","path":"","type":""}]`,
		`[{"type":"file","oid":"0123456789abcdef0123456789abcdef01234567","size":3,"path":"a/b"}]`,
		`[{"type":"file","oid":"0123456789abcdef0123456789abcdef01234567","size":3,"path":"../b"}]`,
		`[{"type":"file","oid":"0123456789abcdef0123456789abcdef01234567","size":9,"path":"l","lfs":{"oid":"abababababababababababababababababababababababababababababababab","size":9},"xetHash":"****"}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		left := int64(1 << 20)
		body := &bounded{r: bytes.NewReader(text), left: &left}
		list := listing{left: 1000}
		if list.page(&document{json.NewDecoder(body), body}) != nil {
			return
		}
		for _, file := range list.files {
			if p, err := fetcher.ParsePath(file.Path.String()); err != nil || p != file.Path || file.Digest.IsZero() || file.Size < 0 {
				t.Errorf("%s gave %+v", text, file)
			}
			if file.XetHash != "" && len(file.XetHash) != 64 {
				t.Errorf("%s gave the xet hash %q", text, file.XetHash)
			}
		}
	})
}
