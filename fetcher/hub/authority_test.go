package hub_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
