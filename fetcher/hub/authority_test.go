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
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestResolveReadsBranchesTagsAndCommitsOfEveryKindOfRepo(t *testing.T) {
	for _, name := range []string{"org/name", "gpt2", "datasets/org/name", "datasets/squad"} {
		h := hubtest.New(t)
		c := newClient(t, h.URL())
		old := h.AddRepo(name, sample)
		latest := h.AddRepo(name, sample)
		h.SetRef(name, "v1.0", old)
		h.SetRef(name, "refs/pr/1", old)
		for ref, want := range map[string]string{"main": latest, "v1.0": old, "refs/pr/1": old, old: old, latest: latest} {
			got, err := c.Resolve(t.Context(), repoOf(t, name), refOf(t, ref), fetcher.Secret{})
			if err != nil || got.Commit.String() != want {
				t.Errorf("%s at %s: %v %v, want %s", name, ref, got, err, want)
			}
			proof, err := c.Prove(t.Context(), repoOf(t, name), refOf(t, ref), pathOf(t, "model.safetensors"), fetcher.Secret{})
			if err != nil || proof.Commit.String() != want {
				t.Errorf("prove %s at %s: %v %v, want %s", name, ref, proof, err, want)
			}
		}
	}
}

func TestResolveTellsTheRepositorysOwnName(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	serve(t, h, "org/other")
	c := newClient(t, h.URL())
	resolve := func(repo string) fetcher.Resolution {
		t.Helper()
		return must[fetcher.Resolution](t)(c.Resolve(t.Context(), repoOf(t, repo), refOf(t, "main"), fetcher.Secret{}))
	}
	first := resolve("org/name")
	h.AddRepo("org/name", map[string][]byte{"a": nil})
	if again := resolve("org/name"); first.RepoID == "" || again.RepoID != first.RepoID || again.Commit == first.Commit {
		t.Errorf("%+v, after a commit %+v", first, again)
	}
	if other := resolve("org/other"); other.RepoID == first.RepoID {
		t.Errorf("another repository is %+v too", other)
	}
	h.Recreate("org/name", sample)
	if stranger := resolve("org/name"); stranger.RepoID == first.RepoID || stranger.Commit != first.Commit {
		t.Errorf("registered anew it is %+v, before %+v", stranger, first)
	}

	sha := `"sha":"` + rev.Commit.String() + `"`
	for body, want := range map[string]string{
		`{"_id":"621ffdc0","id":"org/name",` + sha + `}`: "621ffdc0",
		`{` + sha + `,"id":"org/name","_id":"621ffdc0"}`: "621ffdc0",
		`{` + sha + `,"x":{"_id":"a"},"_id":"A_b-9"}`:    "A_b-9",
		`{` + sha + `}`:                                                       "",
		`{` + sha + `,"_id":null}`:                                            "",
		`{` + sha + `,"_id":17}`:                                              "",
		`{` + sha + `,"_id":{"$oid":"621ffdc0"}}`:                             "",
		`{` + sha + `,"_id":["a"]}`:                                           "",
		`{` + sha + `,"_id":"` + strings.Repeat("a", 64) + `"}`:               strings.Repeat("a", 64),
		`{` + sha + `,"_id":"` + strings.Repeat("a", 65) + `"}`:               "",
		`{` + sha + `,"_id":"../a"}`:                                          "",
		`{` + sha + `,"_id":"a\n"}`:                                           "",
		`{` + sha + `,"_id":"ü"}`:                                             "",
		`{"_id":"` + strings.Repeat("a", 100_000) + `",` + sha + `,"_id":""}`: "",
	} {
		h.Intercept(answer(200, body))
		if got := resolve("org/name"); got.Commit != rev.Commit || got.RepoID != want {
			t.Errorf("%.100s: %+v", body, got)
		}
	}
	for _, body := range []string{
		`{` + sha + `,` + sha + `}`, `{"_id":"a","_id":"b",` + sha + `}`, `{"_id":"a"}`, `{"_id":"a","sha":["` + oid + `"]}`, `{"sha":"main"}`, `[` + sha + `]`,
		`{` + sha + `,"_id":`, `{` + sha,
	} {
		h.Intercept(answer(200, body))
		if got, err := c.Resolve(t.Context(), rev.Repo, refOf(t, "main"), fetcher.Secret{}); !fetcher.Unreachable(err) || got != (fetcher.Resolution{}) {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
	}
}

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

func TestProveShowsWhoMayReadContent(t *testing.T) {
	h := hubtest.New(t)
	h.AddToken("stranger")
	for _, name := range []string{"org/public", "org/private", "datasets/org/gated"} {
		h.AddRepo(name, sample)
	}
	h.SetPrivate("org/private", "friend")
	h.SetGated("datasets/org/gated", "friend")
	c := newClient(t, h.URL())
	for _, w := range []struct {
		repo, token string
		want        error
	}{
		{"org/public", "", nil},
		{"org/public", "stranger", nil},
		{"org/public", "forged", fetcher.ErrBadToken},
		{"org/public", "for\nged", fetcher.ErrBadToken},
		{"org/private", "", fetcher.ErrNotFound},
		{"org/private", "stranger", fetcher.ErrNotFound},
		{"org/private", "friend", nil},
		{"org/none", "", fetcher.ErrNotFound},
		{"org/none", "stranger", fetcher.ErrNotFound},
		{"datasets/org/gated", "", fetcher.ErrGated},
		{"datasets/org/gated", "stranger", fetcher.ErrGated},
		{"datasets/org/gated", "friend", nil},
	} {
		for _, path := range []string{"", "README.md", "model.safetensors", "sub/name with spaces, #?%41 and ünïcode.txt"} {
			p := fetcher.Path{}
			if path != "" {
				p = pathOf(t, path)
			}
			proof, err := c.Prove(t.Context(), repoOf(t, w.repo), refOf(t, "main"), p, fetcher.NewSecret(w.token))
			if !errors.Is(err, w.want) || (w.want != nil) != fetcher.Denied(err) {
				t.Errorf("%s of %s as %q: %v, want %v", path, w.repo, w.token, err, w.want)
			}
			if err == nil && path != "" && proof.Digest != h.Manifest(w.repo)[path].Digest {
				t.Errorf("%s of %s: digest %s", path, w.repo, proof.Digest)
			}
		}
	}
	for _, r := range h.Requests() {
		if r.Kind == "cdn" {
			t.Errorf("a proof went to the CDN: %+v", r)
		}
	}
}

func TestRelativeRedirectsOfTheHubAreFollowed(t *testing.T) {
	h := hubtest.New(t)
	h.ResolveCache(true)
	rev := serve(t, h, "org/name")
	h.Rename("org/old", "org/name")
	h.SetPrivate("org/name", "friend")
	c, friend := newClient(t, h.URL()), fetcher.NewSecret("friend")
	for _, name := range []string{"org/name", "org/old"} {
		for _, path := range []string{"README.md", "model.safetensors"} {
			proof, err := c.Prove(t.Context(), repoOf(t, name), refOf(t, "main"), pathOf(t, path), friend)
			if err != nil || proof.Commit != rev.Commit || proof.Digest != h.Manifest("org/name")[path].Digest {
				t.Errorf("%s of %s: %+v, %v", path, name, proof, err)
			}
		}
		if got, err := c.Resolve(t.Context(), repoOf(t, name), refOf(t, "main"), friend); err != nil || got.Commit != rev.Commit {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	wantBytes(t, open(t, h, c, rev, "README.md", "friend"), 0, 10, sample["README.md"])
}

// A login page or a captive portal is no proof of anything.
func TestAnswersThatAreNotTheHubsProveNothing(t *testing.T) {
	for name, f := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"a page":                        answer(200, "<html>", "Content-Type", "text/html"),
		"a redirect to a login":         answer(302, "", "Location", "https://login.example/"),
		"a redirect to a login at home": login,
		"a redirect to nowhere":         answer(302, ""),
		"a page with a foreign tag":     answer(200, "<html>", "ETag", `"5f3c-abc"`, "Content-Type", "text/html"),
		"a page with a SHA-1 for a tag": answer(200, "<html>", "ETag", `"`+oid+`"`, "Content-Type", "text/html; charset=utf-8"),
	} {
		h := hubtest.New(t)
		rev := serve(t, h, "org/name")
		h.Intercept(f)
		for _, path := range []fetcher.Path{pathOf(t, "README.md"), {}} {
			proof, err := newClient(t, h.URL()).Prove(t.Context(), rev.Repo, rev.Commit.Ref(), path, fetcher.Secret{})
			if !fetcher.Unreachable(err) {
				t.Errorf("%s: %q: %+v, %v", name, path, proof, err)
			}
		}
	}
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.Intercept(answer(200, "", "X-Repo-Commit", strings.Repeat("1", 40)))
	if proof, err := newClient(t, h.URL()).Prove(t.Context(), rev.Repo, rev.Commit.Ref(), pathOf(t, "README.md"), fetcher.Secret{}); !errors.Is(err, fetcher.ErrMalformed) {
		t.Errorf("another commit: %+v, %v", proof, err)
	}
}

// login redirects to a page of the same host.
func login(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path == "/login" {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html>")
		return true
	}
	http.Redirect(w, r, "/login", http.StatusFound)
	return true
}

// A Digest is told only by a header that can mean nothing else.
func TestProofTellsADigestOnlyIfItIsOne(t *testing.T) {
	sha256 := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		headers []string
		want    string
	}{
		"a file in git":                  {[]string{"ETag", `"` + oid + `"`}, "git-blob-sha1:" + oid},
		"a weak tag":                     {[]string{"ETag", `W/"` + oid + `"`}, "git-blob-sha1:" + oid},
		"an LFS file":                    {[]string{"ETag", `"x"`, "X-Linked-Etag", `"` + sha256 + `"`}, "sha256:" + sha256},
		"an LFS file with a SHA-1 tag":   {[]string{"ETag", `"` + oid + `"`, "X-Linked-Size", "9"}, ""},
		"a Xet file with a SHA-1 tag":    {[]string{"ETag", `"` + oid + `"`, "X-Xet-Hash", sha256}, ""},
		"a linked SHA-1":                 {[]string{"X-Linked-Etag", `"` + oid + `"`}, ""},
		"64 digits that may be anything": {[]string{"ETag", `"` + sha256 + `"`}, ""},
		"an MD5":                         {[]string{"ETag", `"` + oid[:32] + `"`}, ""},
	} {
		h := hubtest.New(t)
		rev := serve(t, h, "org/name")
		h.Intercept(answer(200, "", append(c.headers, "X-Repo-Commit", rev.Commit.String())...))
		proof, err := newClient(t, h.URL()).Prove(t.Context(), rev.Repo, refOf(t, "main"), pathOf(t, "x"), fetcher.Secret{})
		if err != nil || proof.Commit != rev.Commit || proof.Digest.IsZero() != (c.want == "") || c.want != "" && proof.Digest.String() != c.want {
			t.Errorf("%s: %+v, %v", name, proof, err)
		}
	}
}

// The ETag of a redirect is of the answer, not of the file.
func TestRedirectShowsNoDigestButTheLinkedOne(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	for linked, want := range map[string]string{"": "", `W/"` + strings.Repeat("ab", 32) + `"`: "sha256:" + strings.Repeat("ab", 32), `"5f3c-1"`: ""} {
		h.Intercept(answer(302, "", "Location", "https://cdn.example/x", "ETag", `"`+oid+`"`, "X-Repo-Commit", rev.Commit.String(), "X-Linked-Etag", linked))
		proof, err := newClient(t, h.URL()).Prove(t.Context(), rev.Repo, refOf(t, "main"), pathOf(t, "x"), fetcher.Secret{})
		if err != nil || proof.Commit != rev.Commit || proof.Digest.IsZero() != (want == "") || want != "" && proof.Digest.String() != want {
			t.Errorf("%q: %+v, %v", linked, proof, err)
		}
	}
}

func TestAnswerForAnotherCommitIsRefused(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.Intercept(answer(200, `{"sha":"`+oid+`"}`))
	if got, err := newClient(t, h.URL()).Resolve(t.Context(), rev.Repo, rev.Commit.Ref(), fetcher.Secret{}); !errors.Is(err, fetcher.ErrMalformed) {
		t.Errorf("resolved to %s, %v", got.Commit, err)
	}
}

func TestNewRefusesEndpointsThatAreNone(t *testing.T) {
	for _, s := range []string{"huggingface.co", "ftp://x", "http://", "https://user:secret@x", "https://x?token=secret", "https://x/#secret", "://", "http://a b", "http://x:\x01"} {
		if _, err := hub.New(hub.Config{Endpoint: s}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "https://huggingface.co", "http://127.0.0.1:8080/", "https://proxy.corp/hf/"} {
		if _, err := hub.New(hub.Config{Endpoint: s}); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestEndpointMayHaveAPath(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") != "ballast/test" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("headers are %v", r.Header)
		}
		http.Redirect(w, r, "/never", http.StatusNotFound)
	}))
	defer front.Close()
	mux := http.NewServeMux()
	mux.Handle("/hf/", http.StripPrefix("/hf", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"sha":"%s"}`, rev.Commit)
	})))
	prefixed := httptest.NewServer(mux)
	defer prefixed.Close()
	if got, err := newClient(t, prefixed.URL+"/hf/").Resolve(t.Context(), rev.Repo, refOf(t, "refs/pr/1"), fetcher.Secret{}); err != nil || got.Commit != rev.Commit {
		t.Errorf("%v, %v", got, err)
	}
	newClient(t, front.URL).Resolve(t.Context(), rev.Repo, refOf(t, "main"), fetcher.Secret{})
}
