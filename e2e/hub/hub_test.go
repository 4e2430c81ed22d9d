package hub_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestALargeModelIsUploadedListedAndFetched(t *testing.T) {
	h, files, s := start(t, 100), hub.LargeModel(1).Files(), storetest.Open(t)
	started := time.Now()
	rev := upload(t, h, "org/model", files)
	t.Logf("%d files, %d bytes uploaded in %s", len(files), sum(files), time.Since(started))
	c := newClient(t, h)
	if got, err := c.Resolve(t.Context(), rev.Repo, refOf(t, "main"), fetcher.Secret{}); err != nil || got.Commit != rev.Commit {
		t.Fatalf("main is %s, %v; the upload made %s", got.Commit, err, rev.Commit)
	}
	started = time.Now()
	m := must(c.Manifest(t.Context(), rev, fetcher.Secret{}))(t)
	t.Logf("listed in %s", time.Since(started))
	var listed []string
	for _, f := range m.Files {
		listed = append(listed, f.Path.String())
	}
	slices.Sort(listed)
	if want := slices.Sorted(maps.Keys(files)); !slices.Equal(listed, want) {
		t.Fatalf("%d files are listed: %v\nwant %d: %v", len(listed), listed, len(want), want)
	}
	res, page := get(t, http.MethodGet, h.URL()+"/api/models/org/model/tree/main?recursive=true", "")
	var entries []struct{ Path string }
	if err := json.Unmarshal(page, &entries); err != nil || len(entries) != 100 || !strings.Contains(res.Header.Get("Link"), `rel="next"`) {
		t.Errorf("a page has %d entries and Link %q: %v", len(entries), res.Header.Get("Link"), err)
	}
	for _, e := range entries {
		if e.Path == "" {
			t.Errorf("an entry without a path is listed")
		}
	}
	started = time.Now()
	if err := fetch(t, h, s, rev, 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("fetched in %s", time.Since(started))
	if sent := h.Traffic("org/model").Total(); sent != sum(files) {
		t.Errorf("%d bytes were sent of %d", sent, sum(files))
	}
	for _, f := range m.Files {
		content := files[f.Path.String()]
		lfs := strings.HasSuffix(f.Path.String(), ".safetensors") || strings.HasSuffix(f.Path.String(), ".bin")
		if want := storetest.File(t, f.Path.String(), content, lfs); f.Digest != want.Digest || f.Size != want.Size || !s.HasBlob(f.Digest) {
			t.Errorf("%s: %s of %d bytes; want %s of %d", f.Path, f.Digest, f.Size, want.Digest, want.Size)
		}
	}
}

func TestModelsAreWhatTheyPromise(t *testing.T) {
	large, other := hub.LargeModel(1).Files(), hub.LargeModel(2).Files()
	if len(large) != 300 || len(hub.SmallModel(1).Files()) != 12 || fetcher.Pieces(int64(len(large["model-00001-of-00003.safetensors"]))) <= 5 {
		t.Errorf("%d files and %d", len(large), len(hub.SmallModel(1).Files()))
	}
	seen := map[string]string{}
	for name, files := range map[string]map[string][]byte{"large": large, "other": other} {
		for path, content := range files {
			for i := range fetcher.Pieces(int64(len(content))) {
				p := fetcher.PieceAt(i, int64(len(content)))
				key := sha256Of(content[p.Offset : p.Offset+p.Size])
				if seen[key] != "" {
					t.Errorf("%s has a Piece of %s", name+"/"+path, seen[key])
				}
				seen[key] = name + "/" + path
			}
		}
	}
	if again := hub.LargeModel(1).Files(); !maps.EqualFunc(large, again, func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Error("the same model has other bytes the second time")
	}
}

func TestASecondUploadIsExactlyItsFiles(t *testing.T) {
	h := start(t, 0)
	for _, repo := range []string{"org/model", "datasets/org/set"} {
		first := upload(t, h, repo, map[string][]byte{"a.json": []byte("{}"), "sub/b.bin": []byte("b"), "sub/empty.bin": {}})
		second := upload(t, h, repo, map[string][]byte{"a.json": []byte("[]"), "c é+%.bin": []byte("c")})
		if first.Commit == second.Commit {
			t.Errorf("%s: both uploads made %s", repo, first.Commit)
		}
		for rev, want := range map[fetcher.Revision][]string{
			first:  {".gitattributes", "a.json", "sub/b.bin", "sub/empty.bin"},
			second: {".gitattributes", "a.json", "c é+%.bin"},
		} {
			m := must(newClient(t, h).Manifest(t.Context(), rev, fetcher.Secret{}))(t)
			var got []string
			for _, f := range m.Files {
				got = append(got, f.Path.String())
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s has %q; want %q", rev, got, want)
			}
		}
		for _, rev := range []fetcher.Revision{first, second} {
			if err := fetch(t, h, storetest.Open(t), rev, 0); err != nil {
				t.Errorf("%s: %v", rev, err)
			}
		}
	}
}

func TestUploadRefusesWhatNoHubHas(t *testing.T) {
	h := start(t, 0)
	for _, repo := range []string{"", "org/../name", "gpt2"} {
		if commit, err := h.Upload(t.Context(), repo, nil); err == nil {
			t.Errorf("%q: %s", repo, commit)
		}
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	h := start(t, 0)
	taken := strings.TrimPrefix(h.URL(), "http://")
	for what, cfg := range map[string]hub.Config{
		"no binary":          {HFD: "/none", Listen: "127.0.0.1:0", Dir: t.TempDir()},
		"a binary that ends": {HFD: "/bin/true", Listen: "127.0.0.1:0", Dir: t.TempDir()},
		"an address taken":   {HFD: binary, Listen: taken, Dir: t.TempDir()},
		"a file for a Dir":   {HFD: binary, Listen: "127.0.0.1:0", Dir: binary},
	} {
		if h, err := hub.Start(t.Context(), cfg); err == nil {
			t.Errorf("%s: it started: %v", what, h.Close())
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
}

// The table is what the real Hub answers, and what our client makes of it.
func TestErrorsAreTheRealHubs(t *testing.T) {
	h := start(t, 0)
	for _, repo := range []string{"org/public", "org/private", "datasets/org/gated"} {
		upload(t, h, repo, hub.SmallModel(1).Files())
	}
	h.Accounts("stranger")
	h.Private("org/private", "friend")
	h.Gated("datasets/org/gated", "friend")
	const missing = "0123456789abcdef0123456789abcdef01234567"
	for _, c := range []struct {
		repo, rev, path, token string
		status                 int
		code                   string
		want                   error
	}{
		{"org/public", "main", "config.json", "", 200, "", nil},
		{"org/public", "main", weights, "stranger", 200, "", nil},
		{"org/public", "main", "config.json", "forged", 401, "", fetcher.ErrBadToken},
		{"org/public", "main", "none.json", "", 404, "EntryNotFound", fetcher.ErrEntryNotFound},
		{"org/public", "none", "config.json", "", 404, "RevisionNotFound", fetcher.ErrRevisionNotFound},
		{"org/public", missing, "config.json", "", 404, "RevisionNotFound", fetcher.ErrRevisionNotFound},
		{"org/none", "main", "config.json", "", 401, "", fetcher.ErrNotFound},
		{"org/none", "main", "config.json", "stranger", 404, "RepoNotFound", fetcher.ErrNotFound},
		{"org/private", "main", "config.json", "", 401, "", fetcher.ErrNotFound},
		{"org/private", "main", "config.json", "stranger", 404, "RepoNotFound", fetcher.ErrNotFound},
		{"org/private", "main", "config.json", "friend", 200, "", nil},
		{"datasets/org/gated", "main", "config.json", "", 401, "GatedRepo", fetcher.ErrGated},
		{"datasets/org/gated", "main", "config.json", "stranger", 403, "GatedRepo", fetcher.ErrGated},
		{"datasets/org/gated", "main", weights, "friend", 200, "", nil},
	} {
		what := c.repo + "@" + c.rev + " " + c.path + " as " + c.token
		client, cred := newClient(t, h), fetcher.NewSecret(c.token)
		_, err := client.Prove(t.Context(), repoOf(t, c.repo), refOf(t, c.rev), pathOf(t, c.path), cred)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		res, body := get(t, http.MethodGet, h.URL()+"/"+c.repo+"/resolve/"+c.rev+"/"+c.path, c.token)
		if res.StatusCode != c.status || res.Header.Get("X-Error-Code") != c.code {
			t.Errorf("%s: %s %v, want %d %q", what, res.Status, res.Header, c.status, c.code)
		}
		if c.status != 200 {
			var said struct{ Error string }
			if err := json.Unmarshal(body, &said); err != nil || said.Error == "" || res.Header.Get("X-Error-Message") != said.Error {
				t.Errorf("%s: %s, %v", what, body, res.Header)
			}
		}
		if c.code == "EntryNotFound" && res.Header.Get("X-Repo-Commit") == "" {
			t.Errorf("%s: %v", what, res.Header)
		}
		for _, header := range []string{"X-Request-Id", "RateLimit", "RateLimit-Policy"} {
			if len(res.Header.Values(header)) != 1 {
				t.Errorf("%s: %s: %q", what, header, res.Header.Values(header))
			}
		}
		if c.path == "none.json" {
			continue
		}
		// What can be seen is another question for gated ones only.
		sees := c.want
		if errors.Is(sees, fetcher.ErrGated) {
			sees = nil
		}
		if _, err := client.Resolve(t.Context(), repoOf(t, c.repo), refOf(t, c.rev), cred); !errors.Is(err, sees) {
			t.Errorf("resolve %s: %v, want %v", what, err, sees)
		}
		if c.rev == "main" {
			if _, err := client.Prove(t.Context(), repoOf(t, c.repo), refOf(t, c.rev), fetcher.Path{}, cred); !errors.Is(err, c.want) {
				t.Errorf("auth-check %s: %v, want %v", what, err, c.want)
			}
		}
	}
	h.Public("org/private")
	if res, _ := get(t, http.MethodGet, h.URL()+"/org/private/resolve/main/config.json", ""); res.StatusCode != 200 {
		t.Errorf("public again: %s", res.Status)
	}
}

func TestHeadersOfAFileAreTheRealHubs(t *testing.T) {
	h, files := start(t, 0), hub.SmallModel(1).Files()
	rev := upload(t, h, "org/model", files)
	for path, lfs := range map[string]bool{weights: true, "config.json": false, "onnx/empty.txt": false} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			res, body := get(t, method, h.URL()+"/org/model/resolve/main/"+path, "")
			want := storetest.File(t, path, files[path], lfs)
			if res.Header.Get("X-Repo-Commit") != rev.Commit.String() || res.Header.Get("ETag") != `"`+want.Digest.Hex()+`"` || res.ContentLength != want.Size {
				t.Errorf("%s %s: %v", method, path, res.Header)
			}
			if (res.Header.Get("X-Linked-Etag") == res.Header.Get("ETag")) != lfs || (res.Header.Get("X-Linked-Size") != "") != lfs {
				t.Errorf("%s %s: %v", method, path, res.Header)
			}
			if method == http.MethodGet && string(body) != string(files[path]) {
				t.Errorf("%s: other bytes than were uploaded", path)
			}
		}
		if path == weights { // the size is the file's, of a range too
			req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL()+"/org/model/resolve/main/"+path, nil))(t)
			req.Header.Set("Range", "bytes=10-19")
			res := must(http.DefaultTransport.RoundTrip(req))(t)
			res.Body.Close()
			if res.StatusCode != http.StatusPartialContent || res.ContentLength != 10 || res.Header.Get("X-Linked-Size") != fmt.Sprint(len(files[path])) {
				t.Errorf("a range: %s %v", res.Status, res.Header)
			}
		}
		proof, err := newClient(t, h).Prove(t.Context(), rev.Repo, refOf(t, "main"), pathOf(t, path), fetcher.Secret{})
		if err != nil || proof.Digest != storetest.File(t, path, files[path], lfs).Digest || proof.Commit != rev.Commit {
			t.Errorf("%s: %+v, %v", path, proof, err)
		}
	}
}

func TestAnInfoSaysWhoMaySee(t *testing.T) {
	h := start(t, 0)
	upload(t, h, "org/model", hub.SmallModel(1).Files())
	info := func() (said struct {
		Private bool
		Gated   any
	}) {
		_, body := get(t, http.MethodGet, h.URL()+"/api/models/org/model", "friend")
		if err := json.Unmarshal(body, &said); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return said
	}
	h.Private("org/model", "friend")
	if said := info(); !said.Private || said.Gated != false {
		t.Errorf("private: %+v", said)
	}
	h.Gated("org/model", "friend")
	if said := info(); said.Private || said.Gated != "manual" {
		t.Errorf("gated: %+v", said)
	}
}

// An LFS object has a name of its own in hfd, by which it could be read past all that
// is private.
func TestContentIsReadByItsRepositoryOnly(t *testing.T) {
	h, files := start(t, 0), hub.SmallModel(1).Files()
	upload(t, h, "org/model", files)
	for _, path := range []string{"/objects/" + sha256Of(files[weights]), "/api/resolve-cache/models/org/model/main/config.json", "/org/model.git/info/refs?service=git-upload-pack", "/"} {
		if res, _ := get(t, http.MethodGet, h.URL()+path, ""); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}
