package hub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestErrorsSayWhatAPersonMustMend(t *testing.T) {
	const code, message = "X-Error-Code", "X-Error-Message"
	for _, c := range []struct {
		status  int
		headers []string
		want    error
	}{
		{401, []string{"WWW-Authenticate", `Bearer realm="Authentication required", charset="UTF-8"`}, fetcher.ErrNotFound},
		{401, []string{message, "Invalid username or password."}, fetcher.ErrNotFound},
		{401, []string{message, "Invalid credentials in Authorization header"}, fetcher.ErrBadToken},
		{401, []string{code, "GatedRepo"}, fetcher.ErrGated},
		{401, []string{code, "RepoNotFound"}, fetcher.ErrNotFound},
		{403, []string{code, "GatedRepo"}, fetcher.ErrGated},
		{403, []string{code, "Unknown"}, fetcher.ErrForbidden},
		{403, []string{message, "Access to this resource is disabled."}, fetcher.ErrForbidden},
		{404, []string{code, "RepoNotFound"}, fetcher.ErrNotFound},
		{404, []string{code, "RevisionNotFound"}, fetcher.ErrRevisionNotFound},
		{404, []string{code, "EntryNotFound"}, fetcher.ErrEntryNotFound},
		{404, []string{"X-Repo-Commit", oid}, fetcher.ErrEntryNotFound},
		{451, []string{message, "Unavailable For Legal Reasons"}, fetcher.ErrForbidden},
	} {
		for name, err := range askAll(t, answer(c.status, "", c.headers...)) {
			if !errors.Is(err, c.want) || fetcher.Transient(err) {
				t.Errorf("%s, %d %v: %v", name, c.status, c.headers, err)
			}
			if c.headers[0] == message && !strings.Contains(err.Error(), c.headers[1]) {
				t.Errorf("%s does not repeat %q: %v", name, c.headers[1], err)
			}
			if !strings.Contains(err.Error(), "org/name") || !strings.Contains(err.Error(), "(request Root=1-") {
				t.Errorf("%s does not say what was asked: %v", name, err)
			}
		}
	}
}

// An ingress, a login, a captive portal: we have not reached the Hub, and whoever
// was let through before still is.
func TestAnswersOfOthersThanTheHubAreUnreachable(t *testing.T) {
	for _, c := range []struct {
		status  int
		body    string
		headers []string
	}{
		{404, "default backend - 404", []string{"Content-Type", "text/plain; charset=utf-8"}},
		{404, "404 page not found", nil},
		{404, `{"message":"no Route matched with those values"}`, []string{"Content-Type", "application/json"}},
		{404, `{"error":null}`, []string{"Content-Type", "application/json"}},
		{404, `{"error":`, []string{"Content-Type", "application/json"}},
		{401, "<html>Sign in", []string{"Content-Type", "text/html"}},
		{401, "", []string{"WWW-Authenticate", `Basic realm="proxy"`}},
		{401, "", []string{"WWW-Authenticate", "Negotiate"}},
		{403, "<html>Forbidden", []string{"Content-Type", "text/html"}},
		{403, "RBAC: access denied", nil},
		{451, "<html>Blocked", []string{"Content-Type", "text/html"}},
		{400, "<html>", nil},
		{416, "", nil},
		{304, "", nil},
		{204, "", nil},
		{302, "", []string{"Location", "https://login.example/"}},
		{502, "", []string{"X-Error-Code", "GatedRepo"}},
	} {
		for name, err := range askAll(t, answer(c.status, c.body, c.headers...)) {
			if !fetcher.Unreachable(err) || fetcher.Denied(err) || errors.Is(err, fetcher.ErrRevisionNotFound) || !strings.Contains(err.Error(), "org/name") {
				t.Errorf("%s, %d %q %v: %v", name, c.status, c.body, c.headers, err)
			}
		}
	}
}

// Such Hubs (matrixhub-ai/hfd is one) say "error" in a body and nothing in headers,
// so a HEAD shows nothing; and 404 for a missing repository, revision or file alike.
func TestHubsWithoutErrorCodesAreUnderstoodByTheirBodies(t *testing.T) {
	says := func(status int) func(w http.ResponseWriter, r *http.Request) bool {
		return answer(status, `{"error":"so it is"}`, "Content-Type", "application/json; charset=utf-8")
	}
	for status, want := range map[int]error{401: fetcher.ErrNotFound, 403: fetcher.ErrForbidden} {
		for name, err := range askAll(t, says(status)) {
			if !errors.Is(err, want) || !strings.Contains(err.Error(), "so it is") {
				t.Errorf("%s, %d: %v", name, status, err)
			}
		}
	}
	for name, err := range askAll(t, says(404)) {
		revision, file := errors.Is(err, fetcher.ErrRevisionNotFound), errors.Is(err, fetcher.ErrEntryNotFound)
		switch name {
		case "auth-check":
			if !fetcher.Unreachable(err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		case "resolve", "manifest":
			if !revision || file {
				t.Errorf("%s: %v", name, err)
			}
		default:
			if !revision || !file {
				t.Errorf("%s: %v", name, err)
			}
		}
		if fetcher.Denied(err) || fetcher.Transient(err) || !strings.Contains(err.Error(), "the repository or the revision does not exist") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// askAll gives one answer to everything that can be asked, and returns the errors.
func askAll(t *testing.T, f func(http.ResponseWriter, *http.Request) bool) map[string]error {
	t.Helper()
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.Intercept(f)
	c, main, token := newClient(t, h.URL()), refOf(t, "main"), fetcher.NewSecret("hf_sekrit")
	errs := map[string]error{}
	_, errs["resolve"] = c.Resolve(t.Context(), rev.Repo, main, token)
	_, errs["manifest"] = c.Manifest(t.Context(), rev, token)
	_, errs["prove"] = c.Prove(t.Context(), rev.Repo, main, pathOf(t, "README.md"), token)
	_, errs["auth-check"] = c.Prove(t.Context(), rev.Repo, main, fetcher.Path{}, token)
	_, errs["read"] = read(t, open(t, h, c, rev, "README.md", "hf_sekrit"), 0, 10)
	_, errs["read a range"] = read(t, open(t, h, c, rev, "README.md", "hf_sekrit"), 1, 2)
	for name, err := range errs {
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "hf_sekrit") {
			t.Errorf("%s shows the token: %v", name, err)
		}
	}
	return errs
}

func TestServerErrorsAreUnreachable(t *testing.T) {
	for _, status := range []int{500, 502, 503, 504, 520, 408} {
		for name, err := range askAll(t, answer(status, "")) {
			if !fetcher.Unreachable(err) || errors.Is(err, fetcher.ErrBusy) != (status == 503) {
				t.Errorf("%s, %d: %v", name, status, err)
			}
		}
	}
	broken := func(w http.ResponseWriter, _ *http.Request) bool {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
		}
		conn.Close()
		return true
	}
	for name, err := range askAll(t, broken) {
		if !fetcher.Unreachable(err) {
			t.Errorf("%s, connection cut: %v", name, err)
		}
	}
}

func TestErrorTextHasNoSecretsAndOneLine(t *testing.T) {
	evil := "your token hf_sekrit is\u0085 bad, see https://x/y?sig=abcdef " + strings.Repeat("long ", 1000)
	escape := "\x1b[2J" // net/http refuses the answer and repeats the line
	for name, err := range askAll(t, answer(403, "", "X-Error-Message", evil, "X-Request-Id", "hf_sekrit")) {
		if s := err.Error(); strings.Contains(s, "hf_sekrit") || strings.Contains(s, "abcdef") || strings.ContainsAny(s, "\x1b\n\u0085") || len(s) > 700 {
			t.Errorf("%s: %q", name, s)
		}
	}
	for name, err := range askAll(t, answer(403, "", "X-Error-Message", escape+evil)) {
		if s := err.Error(); strings.Contains(s, "hf_sekrit") || strings.ContainsAny(s, "\x1b\n") || len(s) > 700 || !fetcher.Unreachable(err) {
			t.Errorf("%s: %q", name, s)
		}
	}
}

func TestRateLimitSaysHowLongToWait(t *testing.T) {
	for _, c := range []struct {
		limit, after string
		want         time.Duration
	}{
		{`"api";r=0;t=55`, "", 56 * time.Second},
		{`"api";r=0;t=55`, "9", 56 * time.Second},
		{`"resolvers"; r=0; t=0`, "", time.Second},
		{`"api";r=12;t=55`, "9", 9 * time.Second},
		{"", "9", 9 * time.Second},
		{"", "0", 0},
		{"", "", 5 * time.Second},
		{"", "-5", 5 * time.Second},
		{"", "soon", 5 * time.Second},
		{"", "Mon, 02 Jan 2006 15:04:05 GMT", 0},
		{`"api";r=0;t=99999999999999999999`, "", 15 * time.Minute},
		{"", "99999999", 15 * time.Minute},
	} {
		headers := []string{}
		if c.limit != "" {
			headers = append(headers, "RateLimit", c.limit)
		}
		if c.after != "" {
			headers = append(headers, "Retry-After", c.after)
		}
		for name, err := range askAll(t, answer(429, "", headers...)) {
			var limited *fetcher.RateLimitedError
			if !errors.As(err, &limited) || !about(limited.RetryAfter, c.want) || fetcher.Unreachable(err) || !fetcher.Transient(err) {
				t.Errorf("%s, %q %q: %v, want %s", name, c.limit, c.after, err, c.want)
			}
		}
	}
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	h.RateLimit(1, 30*time.Second)
	var limited *fetcher.RateLimitedError
	if _, err := newClient(t, h.URL()).Manifest(t.Context(), rev, fetcher.Secret{}); !errors.As(err, &limited) || !about(limited.RetryAfter, 30*time.Second) {
		t.Errorf("%v", err)
	}
}

// about allows for the time that a test takes, and for the tenth that is added so that
// many nodes do not come back at once.
func about(got, want time.Duration) bool { return got > want-3*time.Second && got <= want+want/10 }

func TestHubThatIsDownIsUnreachableAndOurOwnEndIsNot(t *testing.T) {
	h := hubtest.New(t)
	rev := serve(t, h, "org/name")
	c := newClient(t, h.URL())
	h.Down(true)
	if _, err := c.Resolve(t.Context(), rev.Repo, refOf(t, "main"), fetcher.Secret{}); !fetcher.Unreachable(err) {
		t.Errorf("down: %v", err)
	}
	h.Down(false)
	ctx, cancel := context.WithCancel(t.Context())
	h.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done()
		return true
	})
	if _, err := c.Resolve(ctx, rev.Repo, refOf(t, "main"), fetcher.Secret{}); !errors.Is(err, context.Canceled) || fetcher.Transient(err) {
		t.Errorf("cancelled: %v", err)
	}
	h.Intercept(nil)
	if _, err := c.Resolve(t.Context(), rev.Repo, refOf(t, "main"), fetcher.Secret{}); err != nil {
		t.Errorf("up again: %v", err)
	}
}
