package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
	"github.com/ballast-csi/ballast/fetcher/manifestfile"
)

// What is printed where the Hub can be asked is believed where it cannot.
func TestWhatManifestPrintsIsAnAuthority(t *testing.T) {
	clean(t)
	h := hubtest.New(t)
	h.AddToken("hf_sekrit")
	files := map[string][]byte{"config.json": []byte("{}"), "sub/model.safetensors": make([]byte, 100_000)}
	dir, commits := t.TempDir(), map[string]string{}
	for i, repo := range []string{"org/public", "org/private", "datasets/org/data"} {
		commits[repo] = h.AddRepo(repo, files)
		what := repo
		switch i {
		case 1:
			h.SetPrivate(repo, "hf_sekrit")
			t.Setenv("HF_TOKEN", "hf_sekrit")
		case 2:
			h.SetRef(repo, "v1.0", commits[repo])
			what += "@v1.0"
		}
		text, err := ballast(t, "manifest", what, "--hub-endpoint", h.URL(), "--tokens-over-http")
		must(t, err)
		if strings.Contains(text, "hf_sekrit") {
			t.Error("the token is printed")
		}
		must(t, os.WriteFile(filepath.Join(dir, strings.ReplaceAll(repo, "/", "-")+".json"), []byte(text), 0o600))
	}
	h.Down(true)
	authority, err := manifestfile.New(manifestfile.Config{Dir: dir})
	must(t, err)
	for repo, commit := range commits {
		ref := "main"
		if strings.HasPrefix(repo, "datasets/") {
			ref = "v1.0"
		}
		name, err := fetcher.ParseRepo(repo)
		must(t, err)
		at, err := fetcher.ParseRef(ref)
		must(t, err)
		found, err := authority.Resolve(t.Context(), name, at, fetcher.Secret{})
		if err != nil || found.Commit.String() != commit {
			t.Fatalf("%s at %s: %+v, %v", repo, ref, found, err)
		}
		m, err := authority.Manifest(t.Context(), fetcher.Revision{Repo: name, Commit: found.Commit}, fetcher.Secret{})
		must(t, err)
		listed := h.Manifest(repo)
		if len(m.Files) != len(listed) || !slices.ContainsFunc(m.Files, func(f fetcher.File) bool { return f.Digest == listed["sub/model.safetensors"].Digest }) {
			t.Errorf("%s has %+v, and the Hub's %+v", repo, m.Files, listed)
		}
	}
}

func TestManifestPrintsNothingIfItFails(t *testing.T) {
	clean(t)
	h := hubtest.New(t)
	h.AddRepo("org/private", map[string][]byte{"a": []byte("a")})
	h.SetPrivate("org/private", "hf_sekrit")
	for _, c := range []struct {
		args  []string
		usage bool
		want  string
	}{
		{[]string{"org/private"}, false, "private or does not exist"},
		{[]string{"org/none"}, false, "org/none"},
		{[]string{"org/private@a..b"}, true, `revision "a..b"`},
		{[]string{"a/b/c"}, true, `repository "a/b/c"`},
		{[]string{"org/private@"}, true, `revision ""`},
		{nil, true, "want one REPO"},
		{[]string{"a/b", "c/d"}, true, "want one REPO"},
		{[]string{"a/b", "--token-file=/none/token"}, true, "--token-file: open /none/token"},
		{[]string{"a/b", "--hub-ca-file=/none/ca"}, true, "/none/ca"},
		{[]string{"a/b", "--token=hf_sekrit"}, true, "unknown flag"},
	} {
		out, err := ballast(t, append([]string{"manifest", "--hub-endpoint", h.URL()}, c.args...)...)
		if out != "" || err == nil || errors.As(err, new(usageError)) != c.usage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: printed %q, %v", c.args, out, err)
		}
	}
}
