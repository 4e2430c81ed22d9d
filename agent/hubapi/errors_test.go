package hubapi_test

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestRefusalsAreTheHubsOwn(t *testing.T) {
	s, _ := filled(t, "org/name")
	base := serve(t, hubapi.Cached(s))
	const token = "Authorization: Bearer hf_x"
	for _, c := range []struct {
		method, path, header string
		status               int
		code, message        string
	}{
		{"GET", "/api/models/org/other", "", 401, "RepoNotFound", "Invalid username or password."},
		{"GET", "/api/models/org/other", token, 404, "RepoNotFound", "Repository not found"},
		{"HEAD", "/org/other/resolve/main/x", "", 401, "RepoNotFound", "Invalid username or password."},
		{"GET", "/api/datasets/org/name", token, 404, "RepoNotFound", "Repository not found"},
		{"GET", "/api/models/org/name/revision/dev", "", 404, "RevisionNotFound", "revision does not exist"},
		{"GET", "/org/name/resolve/" + strings.Repeat("0", 40) + "/config.json", "", 404, "RevisionNotFound", "revision does not exist"},
		{"GET", "/org/name/resolve/a..b/config.json", "", 404, "RevisionNotFound", "must be a branch"},
		{"HEAD", "/org/name/resolve/main/missing", "", 404, "EntryNotFound", "has no file missing"},
		{"GET", "/org/name/resolve/main/..%2f..%2fetc%2fpasswd", "", 404, "EntryNotFound", "must be relative"},
		{"GET", "/api/models/org/name/tree/main/missing", "", 404, "EntryNotFound", "has no directory missing"},
		{"GET", "/api/models/org/name/tree/main?limit=0", "", 400, "", "limit"},
		{"GET", "/api/models/org/name/tree/main?cursor=%21", "", 400, "", "cursor"},
		{"GET", "/api/models/org/na--me", "", 400, "", "must be org/name"},
		{"GET", "/api/whoami-v2", token, 401, "", "Invalid username or password."},
		{"GET", "/api/models", "", 404, "", "no such page"},
		{"POST", "/org/name/resolve/main/config.json", "", 405, "", "read-only"},
		{"PUT", "/api/models/org/name", "", 405, "", "read-only"},
		{"DELETE", "/nothing", "", 405, "", "read-only"},
		{"GET", "/api/models/org/name/paths-info/main", "", 405, "", "read-only"},
	} {
		headers := []string{}
		if c.header != "" {
			headers = append(headers, c.header)
		}
		r := ask(t, c.method, base+c.path, nil, headers...)
		if r.StatusCode != c.status || r.Header.Get("X-Error-Code") != c.code || !strings.Contains(r.Header.Get("X-Error-Message"), c.message) {
			t.Errorf("%s %s: %s, code %q, message %q; want %d, %q, %q", c.method, c.path, r.Status, r.Header.Get("X-Error-Code"), r.Header.Get("X-Error-Message"), c.status, c.code, c.message)
		}
		if c.method != "HEAD" && !strings.HasPrefix(string(r.body), `{"error":"`) {
			t.Errorf("%s %s: body %s", c.method, c.path, r.body)
		}
		if entry := c.code == "EntryNotFound" && !strings.Contains(c.path, ".."); entry && r.Header.Get("X-Repo-Commit") != commit {
			t.Errorf("%s %s: the missing file's commit is not told", c.method, c.path)
		}
		if (c.status == 405) != (r.Header.Get("Allow") != "") || (c.status == 401) != (r.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s %s: Allow %q, WWW-Authenticate %q", c.method, c.path, r.Header.Get("Allow"), r.Header.Get("WWW-Authenticate"))
		}
	}
}

func TestWhatTheLibraryRefusesIsToldAsTheHubTellsIt(t *testing.T) {
	s, _ := filled(t, "org/name")
	for _, c := range []struct {
		err             error
		status, withKey int
		code, message   string
	}{
		{fetcher.ErrGated, 401, 403, "GatedRepo", "restricted"},
		{fetcher.ErrBadToken, 401, 401, "", "Invalid credentials in Authorization header"},
		{fetcher.ErrForbidden, 403, 403, "", "token lacks permission"},
		{fetcher.ErrInsecure, 403, 403, "", "--tokens-over-http"},
		{fetcher.ErrMalformed, 502, 502, "", "cannot be used"},
		{store.ErrNoSpace, 503, 503, "", "try again"},
		{store.ErrReplaced, 503, 503, "", "try again"},
		{syscall.EMFILE, 503, 503, "", "try again"},
		{errors.New("disk on fire at /secret/path"), 500, 500, "", "internal error"},
	} {
		var seen fetcher.Secret
		base := serve(t, refusing{Library: hubapi.Cached(s), err: c.err, seen: &seen})
		for status, headers := range map[int][]string{c.status: nil, c.withKey: {"Authorization: Bearer hf_key"}} {
			r := ask(t, "GET", base+"/org/name/resolve/main/config.json", nil, headers...)
			if r.Header.Get("X-Error-Code") != c.code || !strings.Contains(r.Header.Get("X-Error-Message"), c.message) || r.StatusCode != status {
				t.Errorf("%v: %s, code %q, message %q; want %d %q", c.err, r.Status, r.Header.Get("X-Error-Code"), r.Header.Get("X-Error-Message"), status, c.code)
			}
			if strings.Contains(string(r.body), "/secret/path") {
				t.Errorf("%v: the client is told of this node's insides: %s", c.err, r.body)
			}
			if headers != nil && seen.Reveal() != "hf_key" {
				t.Errorf("the library was asked for %q", seen.Reveal())
			}
		}
	}
}

// A client remembers a file that "does not exist"; one that is only not here must
// not be told so.
func TestAFileThatIsNotCachedIsNotSaidNotToExist(t *testing.T) {
	s, _ := filled(t, "org/name")
	var seen fetcher.Secret
	base := serve(t, refusing{Library: hubapi.Cached(s), err: fs.ErrNotExist, onlyOpen: true, seen: &seen})
	r := ask(t, "HEAD", base+"/org/name/resolve/main/config.json", nil)
	if r.StatusCode != 404 || r.Header.Get("X-Error-Code") != "EntryNotCached" || r.Header.Get("ETag") != "" {
		t.Errorf("%s, code %q, ETag %q", r.Status, r.Header.Get("X-Error-Code"), r.Header.Get("ETag"))
	}
}

func TestAHandlerNeedsALibrary(t *testing.T) {
	if _, err := hubapi.New(hubapi.Config{}); err == nil {
		t.Error("a handler of nothing was made")
	}
}
