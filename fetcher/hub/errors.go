package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ballast-csi/ballast/fetcher"
)

// badCredentials is the X-Error-Message by which a 401 for a bad token differs
// from one for a missing or private repository (huggingface_hub, utils/_http.py).
const badCredentials = "Invalid credentials in Authorization header"

// byCode maps X-Error-Code.
var byCode = map[string]error{
	"RepoNotFound":     fetcher.ErrNotFound,
	"RevisionNotFound": fetcher.ErrRevisionNotFound,
	"EntryNotFound":    fetcher.ErrEntryNotFound,
	"GatedRepo":        fetcher.ErrGated,
}

// byStatus maps a status that came without a code we know.
var byStatus = map[int]error{
	http.StatusUnauthorized:               fetcher.ErrNotFound,
	http.StatusForbidden:                  fetcher.ErrForbidden,
	http.StatusNotFound:                   fetcher.ErrNotFound,
	http.StatusUnavailableForLegalReasons: fetcher.ErrForbidden,
}

// statusError turns an answer that is not the wanted one into a typed error.
func (c *Client) statusError(q request, a *answer) error {
	message := errorMessage(a.Response, q.cred)
	detail := statusText(a.StatusCode)
	if message != "" {
		detail += ": " + message
	}
	if id := clean(a.Header.Get("X-Request-Id"), q.cred); id != "" {
		detail += " (request " + id + ")"
	}
	status := a.StatusCode
	switch {
	case status == http.StatusTooManyRequests:
		return &fetcher.RateLimitedError{RetryAfter: retryAfter(a.Header), Err: fmt.Errorf("%s: %s", q.what, detail)}
	case status >= 500 || status == http.StatusRequestTimeout:
		return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %s", q.what, detail)}
	case isRedirect(status):
		where := "nowhere"
		if next, err := redirectTarget(a.url, a.Header.Get("Location")); err == nil {
			where = next.Scheme + "://" + next.Host
		}
		return fmt.Errorf("%s: %w: a redirect to %s", q.what, fetcher.ErrMalformed, where)
	case !a.home:
		return fmt.Errorf("%s: %w: %s from %s", q.what, fetcher.ErrMalformed, statusText(a.StatusCode), a.url.Host)
	}
	kind := byCode[a.Header.Get("X-Error-Code")]
	switch {
	case kind != nil:
	case status == http.StatusUnauthorized && message == badCredentials:
		kind = fetcher.ErrBadToken
	case status == http.StatusNotFound && a.header("X-Repo-Commit") != "":
		kind = fetcher.ErrEntryNotFound
	default:
		kind = byStatus[status]
	}
	if kind == nil {
		kind = fetcher.ErrMalformed
	}
	return fmt.Errorf("%s: %w: %s", q.what, kind, detail)
}

// statusText is the status in our words, not the server's.
func statusText(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

// malformed says that an answer makes no sense. What err quotes is a stranger's.
func malformed(q request, err error) error {
	return fmt.Errorf("%s: %w: %s", q.what, fetcher.ErrMalformed, clean(err.Error(), q.cred))
}

// errorMessage returns X-Error-Message, or "error" of a JSON body.
func errorMessage(res *http.Response, cred fetcher.Secret) string {
	if m := res.Header.Get("X-Error-Message"); m != "" {
		return clean(m, cred)
	}
	var body struct {
		Error string `json:"error"`
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		_ = json.Unmarshal(text, &body) // no message, then
	}
	return clean(body.Error, cred)
}

// clean makes a stranger's text fit for an error: one short line, without the
// token, should it be repeated there, and without the query of a URL.
func clean(s string, cred fetcher.Secret) string {
	if !cred.IsZero() {
		s = strings.ReplaceAll(s, cred.Reveal(), cred.String())
	}
	s = queries.ReplaceAllString(s, "$1")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "..."
	}
	return strings.TrimSpace(s)
}

var queries = regexp.MustCompile(`(https?://[^\s?]*)\?\S*`)

const (
	defaultRetryAfter = 5 * time.Second
	maxRetryAfter     = 15 * time.Minute // thrice the Hub's window
)

var rateLimit = regexp.MustCompile(`"\w+"\s*;\s*r\s*=\s*(\d+)\s*;\s*t\s*=\s*(\d+)`)

// retryAfter reads how long a 429 asks to wait: to the end of the window that
// RateLimit says is used up, one second added as huggingface_hub does, else
// Retry-After.
func retryAfter(h http.Header) time.Duration {
	wait := defaultRetryAfter
	if m := rateLimit.FindStringSubmatch(h.Get("RateLimit")); m != nil && strings.Trim(m[1], "0") == "" {
		wait = seconds(m[2]) + time.Second
	} else if text := h.Get("Retry-After"); text != "" {
		if at, err := http.ParseTime(text); err == nil {
			wait = time.Until(at)
		} else if _, err := strconv.ParseUint(text, 10, 64); err == nil {
			wait = seconds(text)
		}
	}
	return min(max(wait, 0), maxRetryAfter)
}

// seconds reads digits; what does not fit is more than we would wait.
func seconds(digits string) time.Duration {
	n, err := strconv.Atoi(digits)
	if err != nil || n > int(maxRetryAfter/time.Second) {
		return maxRetryAfter
	}
	return time.Duration(n) * time.Second
}

// networkError says that no answer came, or that our own caller gave up. It keeps
// only the text: a *url.Error repeats the URL, net/http a header line it cannot read.
func networkError(ctx context.Context, q request, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", q.what, context.Cause(ctx))
	}
	return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %s", q.what, clean(err.Error(), q.cred))}
}
