package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/ballast-csi/ballast/fetcher"
)

// badCredentials is the X-Error-Message by which a 401 for a bad token differs
// from one for a missing or private repository (huggingface_hub, utils/_http.py).
const badCredentials = "Invalid credentials in Authorization header"

// challenge begins the WWW-Authenticate of the Hub's own 401.
const challenge = `Bearer realm="Authentication required"`

// byCode maps X-Error-Code.
var byCode = map[string]error{
	"RepoNotFound":     fetcher.ErrNotFound,
	"RevisionNotFound": fetcher.ErrRevisionNotFound,
	"EntryNotFound":    fetcher.ErrEntryNotFound,
	"GatedRepo":        fetcher.ErrGated,
}

// byStatus maps a status that came without a code we know. A 404 is not here: what
// it is about depends on what was asked, see request.absent.
var byStatus = map[int]error{
	http.StatusUnauthorized:               fetcher.ErrNotFound,
	http.StatusForbidden:                  fetcher.ErrForbidden,
	http.StatusUnavailableForLegalReasons: fetcher.ErrForbidden,
}

// What a 404 without a code may say. A Hub that sends no codes does not tell a
// revision that is missing from a repository that is, so neither is a verdict on
// access to the repository.
var (
	errNoRevision = fmt.Errorf("the repository or the %w", fetcher.ErrRevisionNotFound)
	errNoFile     = fmt.Errorf("%w, or the %w", errNoRevision, fetcher.ErrEntryNotFound)
)

// statusError turns an answer that is not the wanted one into a typed error. Only
// what the Hub itself says is a verdict: proxies, portals and default backends
// answer with the same statuses, and then we have not reached the Hub.
func (c *Client) statusError(ctx context.Context, q request, a *answer) error {
	said := verdictOf(a.Response, q.cred)
	if a.home && !said.hubs && q.method == http.MethodHead && isJSON(a.Header) && mayBeVerdict(a.StatusCode) {
		var err error
		if said, err = c.spellOut(ctx, q, a); err != nil {
			return err
		}
	}
	detail := statusText(a.StatusCode)
	if said.message != "" {
		detail += ": " + said.message
	}
	if id := clean(a.Header.Get("X-Request-Id"), q.cred); id != "" {
		detail += " (request " + id + ")"
	}
	status := a.StatusCode
	switch {
	case status == http.StatusTooManyRequests:
		wait := retryAfter(a.Header)
		if a.home {
			wait = max(wait, c.gate.left(limit{c.bucketOf(a.url), q.cred}))
		}
		return &fetcher.RateLimitedError{RetryAfter: wait, Err: fmt.Errorf("%s: %s", q.what, detail)}
	case isRedirect(status):
		where := "nowhere"
		if next, err := redirectTarget(a.url, a.Header.Get("Location")); err == nil {
			where = next.Scheme + "://" + next.Host
		}
		return unusable(q, fmt.Errorf("a redirect to %s", where))
	case !a.home && status == http.StatusServiceUnavailable:
		return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %w: %s from %s", q.what, fetcher.ErrBusy, statusText(status), clean(a.url.Host, q.cred))}
	case !a.home:
		return unusable(q, fmt.Errorf("%s from %s", statusText(status), a.url.Host))
	case status == http.StatusServiceUnavailable:
		return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %w: %s", q.what, fetcher.ErrBusy, detail)}
	case !mayBeVerdict(status):
		return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %s", q.what, detail)}
	case !said.hubs:
		return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %s, which is not how the Hub answers", q.what, detail)}
	}
	kind := byCode[said.code]
	switch {
	case kind != nil:
	case status == http.StatusUnauthorized && said.message == badCredentials:
		kind = fetcher.ErrBadToken
	case status == http.StatusNotFound && a.header("X-Repo-Commit") != "":
		kind = fetcher.ErrEntryNotFound
	case status == http.StatusNotFound:
		kind = q.absent
	default:
		kind = byStatus[status]
	}
	if kind == nil {
		return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %s", q.what, detail)}
	}
	return fmt.Errorf("%s: %w: %s", q.what, kind, detail)
}

// mayBeVerdict reports whether a status is about what was asked, not about the moment.
func mayBeVerdict(status int) bool {
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}

// verdict is what an answer says about itself.
type verdict struct {
	code, message string
	hubs          bool // it has the form of the Hub's errors
}

// verdictOf reads an answer's X-Error headers, or "error" of a JSON body (which is
// all that some servers of the Hub's API send, matrixhub-ai/hfd for one).
func verdictOf(res *http.Response, cred fetcher.Secret) verdict {
	v := verdict{code: res.Header.Get("X-Error-Code"), message: res.Header.Get("X-Error-Message")}
	if v.message == "" && isJSON(res.Header) {
		var body struct {
			Error string `json:"error"`
		}
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		_ = json.Unmarshal(text, &body) // no message, then
		v.message = body.Error
	}
	v.message = clean(v.message, cred)
	v.hubs = v.code != "" || v.message != "" || res.Header.Get("X-Repo-Commit") != "" ||
		strings.HasPrefix(res.Header.Get("WWW-Authenticate"), challenge)
	return v
}

// spellOut asks again for what a HEAD was refused without the Hub's headers: the
// answer to a GET has a body to tell by. What keeps that from being asked or answered,
// such as a limit, is then all that is known.
func (c *Client) spellOut(ctx context.Context, q request, a *answer) (verdict, error) {
	q.method, q.url, q.span = http.MethodGet, a.url, "bytes=0-0"
	again, err := c.send(ctx, q)
	if err != nil {
		return verdict{}, err
	}
	defer again.Body.Close()
	switch {
	case again.StatusCode == http.StatusTooManyRequests:
		return verdict{}, c.statusError(ctx, q, again)
	case again.StatusCode != a.StatusCode || !again.home:
		return verdict{}, nil
	}
	return verdictOf(again.Response, q.cred), nil
}

func isJSON(h http.Header) bool { return strings.HasPrefix(h.Get("Content-Type"), "application/json") }

// statusText is the status in our words, not the server's.
func statusText(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

// malformed says that an answer makes no sense. What err quotes is a stranger's.
func malformed(q request, err error) error {
	return fmt.Errorf("%s: %w: %s", q.what, fetcher.ErrMalformed, clean(err.Error(), q.cred))
}

// unusable says that what answered was not the Hub, or not with what was asked for.
func unusable(q request, err error) error {
	return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %s", q.what, clean(err.Error(), q.cred))}
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

// budget is what RateLimit says is left of a bucket, until its reset.
type budget struct {
	bucket string
	left   int // requests
	reset  time.Duration
}

var rateLimit = regexp.MustCompile(`"(\w+)"\s*;\s*r\s*=\s*(\d+)\s*;\s*t\s*=\s*(\d+)`)

// budgets reads RateLimit: "api";r=12;t=55, for one bucket or a few.
func budgets(h http.Header) (list []budget) {
	for _, m := range rateLimit.FindAllStringSubmatch(h.Get("RateLimit"), 4) {
		left, err := strconv.Atoi(m[2])
		if err != nil {
			left = math.MaxInt // more than fits
		}
		list = append(list, budget{m[1], left, seconds(m[3])})
	}
	return list
}

// retryAfter reads how long a 429 asks to wait: to the end of the window that
// RateLimit says is used up, one second added as huggingface_hub does, else
// Retry-After.
func retryAfter(h http.Header) time.Duration {
	wait := defaultRetryAfter
	list := budgets(h)
	if i := slices.IndexFunc(list, func(b budget) bool { return b.left == 0 }); i >= 0 {
		wait = list[i].reset + time.Second
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
	if short := shortage(err); short != nil {
		return fmt.Errorf("%s: %w", q.what, short)
	}
	return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %s", q.what, clean(err.Error(), q.cred))}
}

// shortage returns what this machine is short of, if that is what ended err's attempt: it
// says nothing of the Hub. Of what a lookup failed by, net keeps the text alone.
func shortage(err error) error {
	var lookup *net.DNSError
	failed := errors.As(err, &lookup)
	for _, short := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, short) || failed && strings.Contains(lookup.Err, short.Error()) {
			return short
		}
	}
	return nil
}
