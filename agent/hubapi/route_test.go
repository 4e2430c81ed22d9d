package hubapi

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestRoutesAreReadAsTheHubReadsThem(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	for _, c := range []struct {
		path   string
		action action
		repo   string
		ref    string
		file   string
	}{
		{"/api/whoami-v2", actWhoami, "", "", ""},
		{"/api/models/gpt2", actInfo, "gpt2", "main", ""},
		{"/api/models/org/name", actInfo, "org/name", "main", ""},
		{"/api/models/org/name/revision/refs%2Fpr%2F1", actInfo, "org/name", "refs/pr/1", ""},
		{"/api/models/gpt2/revision/main", actInfo, "gpt2", "main", ""},
		{"/api/datasets/org/name/tree/" + commit, actTree, "datasets/org/name", commit, ""},
		{"/api/models/org/name/tree/main/", actTree, "org/name", "main", ""},
		{"/api/models/org/name/tree/main/a/b%20c", actTree, "org/name", "main", "a/b c"},
		{"/api/models/org/name/tree/main/a%2Fb", actTree, "org/name", "main", "a/b"},
		{"/api/models/gpt2/tree/main/tree/main", actTree, "gpt2", "main", "tree/main"},
		{"/api/models/org/name/paths-info/main", actPathsInfo, "org/name", "main", ""},
		{"/api/models/org/name/refs", actRefs, "org/name", "", ""},
		{"/api/models/gpt2/refs", actRefs, "gpt2", "", ""},
		{"/api/models/org/name/auth-check", actAuthCheck, "org/name", "", ""},
		{"/org/name/resolve/main/a/b.txt", actResolve, "org/name", "main", "a/b.txt"},
		{"/gpt2/resolve/refs%2Fpr%2F1/x", actResolve, "gpt2", "refs/pr/1", "x"},
		{"/datasets/org/name/resolve/main/x", actResolve, "datasets/org/name", "main", "x"},
		{"/datasets/squad/resolve/main/x", actResolve, "datasets/squad", "main", "x"},
		{"/org/resolve/resolve/main/x", actResolve, "org/resolve", "main", "x"},
		{"/org/name/resolve/main/resolve/main/x", actResolve, "org/name", "main", "resolve/main/x"},
	} {
		got, err := parseRoute(c.path)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		if got.action != c.action || got.repo.String() != c.repo || got.ref.String() != c.ref || got.path.String() != c.file {
			t.Errorf("%s: got %s of %q at %q, file %q", c.path, got.action, got.repo, got.ref, got.path)
		}
	}
}

func TestBadNamesAreRefusedWhereTheyEnter(t *testing.T) {
	for path, code := range map[string]string{
		"/org/name/resolve/main/..%2f..%2fetc/passwd": codeEntry,
		"/org/name/resolve/main/a/../b":               codeEntry,
		"/org/name/resolve/main/a%00b":                codeEntry,
		"/org/name/resolve/main//etc/passwd":          codeEntry,
		"/org/name/resolve/ma..in/x":                  codeRevision,
		"/org/name/resolve/%20/x":                     codeRevision,
		"/api/models/org/na--me":                      "",
		"/api/models/org/..":                          "",
		"/..%2f..%2fetc/name/resolve/main/x":          "",
		"/org/name/resolve/main/%zz":                  "",
	} {
		got, err := parseRoute(path)
		var bad *badName
		if !errors.As(err, &bad) || bad.code != code {
			t.Errorf("%s: got %+v, error %v; want a refusal with code %q", path, got, err, code)
		}
	}
}

func TestWhatIsNoRouteIsNone(t *testing.T) {
	for _, path := range []string{"", "/", "/api", "/api/models", "/api/spaces/org/name", "/org/name", "/org/name/resolve/main",
		"/org/name/blob/main/x", "/api/models/org/name/refs/main", "/api/models/org/name/revision/main/x", "/metrics", "/datasets"} {
		if got, err := parseRoute(path); err != nil || got != (route{}) {
			t.Errorf("%q: got %+v, %v", path, got, err)
		}
	}
}

// FuzzRoute: whatever a URL says, what comes out is a whole route or none, and a
// route written as a URL again is read the same.
func FuzzRoute(f *testing.F) {
	for _, seed := range []string{"/api/models/gpt2", "/api/datasets/org/name/tree/refs%2Fpr%2F1/a/b", "/org/name/resolve/main/a%2Fb",
		"/org/name/resolve/main/..%2f", "/api/models/a/b/refs", "/api/whoami-v2", "/%zz", "//", "/datasets/resolve/resolve/main/x", "/resolve/resolve/resolve/resolve/resolve"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := parseRoute(path)
		if err != nil || got == (route{}) {
			return
		}
		if got.action == actWhoami {
			return
		}
		wantRef := got.action != actRefs && got.action != actAuthCheck
		if got.repo.IsZero() || got.ref.IsZero() == wantRef || (got.action == actResolve && got.path.IsZero()) {
			t.Fatalf("%q: half a route: %+v", path, got)
		}
		again, err := parseRoute(written(got))
		if err != nil || again != got {
			t.Fatalf("%q is %+v, written as %q it is %+v (%v)", path, got, written(got), again, err)
		}
	})
}

// written is the URL path a client would send for r.
func written(r route) string {
	var file []string
	if !r.path.IsZero() {
		for _, s := range strings.Split(r.path.String(), "/") {
			file = append(file, url.PathEscape(s))
		}
	}
	ref := url.PathEscape(r.ref.String())
	if r.action == actResolve {
		return "/" + r.repo.String() + "/resolve/" + ref + "/" + strings.Join(file, "/")
	}
	kind := map[fetcher.Kind]string{fetcher.Model: "models", fetcher.Dataset: "datasets"}[r.repo.Kind()]
	parts := []string{"/api", kind, r.repo.Name(), string(r.action)}
	if !r.ref.IsZero() {
		parts = append(parts, ref)
	}
	return strings.Join(append(parts, file...), "/")
}
