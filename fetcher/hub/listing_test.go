package hub_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestManifestListsEveryFileOfAllPages(t *testing.T) {
	for _, name := range []string{"org/name", "gpt2", "datasets/org/name"} {
		for _, size := range []int{1, 2, 5, 1000} {
			h := hubtest.New(t)
			h.PageSize(size)
			rev := serve(t, h, name)
			m, err := newClient(t, h.URL()).Manifest(t.Context(), rev, fetcher.Secret{})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]fetcher.File{}
			for _, f := range m.Files {
				got[f.Path.String()] = f
			}
			if m.Revision != rev || m.Authority != "hub" || !reflect.DeepEqual(got, h.Manifest(name)) {
				t.Errorf("pages of %d: %+v\nwant %+v", size, got, h.Manifest(name))
			}
		}
	}
}

func TestManifestOfGatedRepoHasNoXetHashesForStrangers(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.SetGated("org/name", "friend")
	for token, want := range map[string]bool{"": false, "friend": true} {
		m, err := newClient(t, h.URL()).Manifest(t.Context(), rev, fetcher.NewSecret(token))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range m.Files {
			if f.Digest.Algorithm() == fetcher.SHA256 && (f.XetHash != "") != want {
				t.Errorf("token %q: xet hash of %s is %q", token, f.Path, f.XetHash)
			}
		}
	}
}

const oid = "0123456789abcdef0123456789abcdef01234567"

func TestManifestSkipsOddEntriesAndRefusesBadFiles(t *testing.T) {
	good := fmt.Sprintf(`{"type":"file","oid":"%s","size":3,"path":"a"}`, oid)
	sha256 := strings.Repeat("ab", 32)
	for _, c := range []struct {
		body  string
		files int // -1: refused; -2: not the Hub's answer
	}{
		{`[]`, 0},
		{`[` + good + `]`, 1},
		{`[{"oid":"","path":"","type":""},` + good + `]`, 1}, // matrixhub-ai/hfd for a sub-directory
		{`[{},{"type":null},{"type":3},{"type":"directory","path":"../d"},{"type":"submodule"},` + good + `]`, 1},
		{`[{"type":"file","oid":"` + oid + `","size":9,"path":"l","lfs":{"oid":"` + sha256 + `","size":9,"pointerSize":130}}]`, 1},
		{`[{"type":"file","oid":"` + oid + `","size":9,"path":"l","lfs":null,"unknown":{}}]`, 1},
		{`[{"type":"file","oid":"` + oid + `","size":9,"path":"l","lfs":{"oid":"` + sha256 + `","size":8}}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":9,"path":"l","lfs":{"oid":"` + oid + `","size":9}}]`, -1},
		{`[{"type":"file","oid":"","size":9,"path":"l"}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":-1,"path":"l"}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":1e99,"path":"l"}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":3,"path":"../../etc/passwd"}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":3,"path":"/etc/passwd"}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":3,"path":""}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":3,"path":"a/b"},` + good + `]`, -1},
		{`[` + good + `,` + good + `]`, -1},
		{file(`10995116277760`, "ten-terabytes"), 1},
		{file(`70368744177664`, "the-most"), 1},
		{file(`70368744177665`, "more"), -1},
		{file(`9223372036854775808`, "huge"), -1},
		{file(strings.Repeat("9", 10_000), "huger"), -1},
		{file(`-9223372036854775808`, "tiny"), -1},
		{file(`3.5`, "half"), -1},
		{file(`3e0`, "exponent"), -1},
		{file(`"3"`, "text"), -1},
		{file(`null`, "none"), 1},
		{file(`3`, `nul\u0000`), -1},
		{file(`3`, `line\nbreak`), -1},
		{file(`3`, "line\nbreak"), -2}, // not JSON
		{file(`3`, `escape\u001b[2J`), -1},
		{file(`3`, `a/.git/config`), -1},
		{file(`3`, `.g\u200cit/config`), -1},
		{file(`3`, `GIT~1/config`), -1},
		{file(`3`, strings.Repeat("a", 255)), 1},
		{file(`3`, strings.Repeat("a", 256)), -1},
		{file(`3`, strings.Repeat("d/", 1000)+"a"), -1},
		{file(`3`, "\xff", `\ud800.`), 2},                                               // to JSON both hold U+FFFD
		{file(`3`, `\ud800`, `\udfff`), -1},                                             // which is one name twice
		{file(`3`, `e\u0301`, `\u00e9`, `a`, `A`, `b\u202etxt.exe`, `b\u200b`, `b`), 7}, // distinct on Linux
		{`[{"type":"file","oid":"` + oid + `","size":3,"path":"a","path":"../b"}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":3,"path":"a","PATH":"../b"}]`, -1},
		{`[{"type":"file","oid":"` + oid + `","size":3,"size":-1,"path":"a"}]`, -1},
		{`[{"type":"file","type":"directory","path":"../b"}]`, 0},
		{`[{"type":"file","oid":"` + oid + `","size":3,"path":"a","x":` + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000) + `}]`, 1},
		{`[{"type":"file","oid":"` + oid + `","size":3,"path":"a","x":` + strings.Repeat("[", 50_000) + strings.Repeat("]", 50_000) + `}]`, -2},
		{`[null,` + good + `]`, -1},
		{`[7,` + good + `]`, -1},
		{`[` + good + `,"x"]`, -1},
		{`[[]]`, -1},
		{`null`, -2},
		{`{"error":"x"}`, -2},
		{`<html>please log in</html>`, -2},
		{``, -2},
		{`[`, -2},
		{`[` + good, -2},
		{`[` + good + `,`, -2},
		{`[` + good + good + `]`, -2},
	} {
		h := hubtest.New(t)
		rev := serve(t, h, "org/name")
		h.Intercept(answer(200, c.body))
		m, err := newClient(t, h.URL()).Manifest(t.Context(), rev, fetcher.Secret{})
		switch {
		case c.files == -2 && (!fetcher.Unreachable(err) || errors.Is(err, fetcher.ErrMalformed) || !strings.Contains(err.Error(), "org/name")):
			t.Errorf("%.300s: %v, %+v", c.body, err, m)
		case c.files == -1 && (!errors.Is(err, fetcher.ErrMalformed) || fetcher.Transient(err) || !strings.Contains(err.Error(), "org/name")):
			t.Errorf("%.300s: %v, %+v", c.body, err, m)
		case c.files >= 0 && (err != nil || len(m.Files) != c.files):
			t.Errorf("%.300s: %v, %+v", c.body, err, m)
		}
		if err != nil && (len(err.Error()) > 700 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) })) {
			t.Errorf("%.300s: the error is not fit to print: %q", c.body, err)
		}
	}
}

// file is a listing of files of one size, in JSON, at these paths, as they stand in JSON.
func file(size string, paths ...string) string {
	entries := make([]string, len(paths))
	for i, path := range paths {
		entries[i] = `{"type":"file","oid":"` + oid + `","size":` + size + `,"path":"` + path + `"}`
	}
	return "[" + strings.Join(entries, ",") + "]"
}

// atLocalhost makes s another host than 127.0.0.1, where the Hub is.
func atLocalhost(s *httptest.Server) *httptest.Server {
	s.URL = strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	return s
}

func TestManifestFollowsPagesOnlyWhereTheyMayBe(t *testing.T) {
	strange := atLocalhost(httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another host was asked: %s, Authorization %q", r.URL, r.Header.Get("Authorization"))
	})))
	defer strange.Close()
	for name, c := range map[string]struct {
		link string // %s is the Hub
		ok   bool
	}{
		"the same host":                       {`<%s/api/models/org/name/tree/x?cursor=2>; rel="next"`, true},
		"relative":                            {`</api/models/org/name/tree/x?cursor=2>; rel="next"`, true},
		"among others":                        {`<http://x/>; rel="xet-auth", </api/models/org/name/tree/x?cursor=2>; rel=next; foo=bar`, true},
		"the public Hub's, through a mirror":  {`<https://huggingface.co/api/models/org/name/tree/x?cursor=2>; rel="next"`, true},
		"another host":                        {`<` + strange.URL + `/api?cursor=2>; rel="next"`, false},
		"another scheme":                      {`<file:///etc/passwd>; rel="next"`, false},
		"the same host by another scheme":     {`<ftp://127.0.0.1/api?cursor=2>; rel="next"`, false},
		"the same host with a user":           {`<http://user:pass@127.0.0.1/api?cursor=2>; rel="next"`, false},
		"the same page for ever":              {`<%s/api/models/org/name/tree/x?cursor=1>; rel="next"`, false},
		"no URL":                              {"<http://[bad?cursor=2>; rel=\"next\"", false},
		"a link that is not to the next page": {`<` + strange.URL + `>; rel="previous", <` + strange.URL + `>; title="rel=next"`, true},
	} {
		h := hubtest.New(t)
		rev := serve(t, h, "org/name")
		h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("cursor") != "2" {
				w.Header().Set("Link", strings.ReplaceAll(c.link, "%s", h.URL()))
			}
			fmt.Fprint(w, `[]`)
			return true
		})
		_, err := newClient(t, h.URL()).Manifest(t.Context(), rev, fetcher.NewSecret("token"))
		if c.ok != (err == nil) || err != nil && !errors.Is(err, fetcher.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
