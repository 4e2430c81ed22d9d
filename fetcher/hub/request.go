package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/ballast-csi/ballast/fetcher"
)

// request is one exchange: what is asked, for whom, and how far to follow.
type request struct {
	what   string // what is being done to which repo and file, for errors
	method string
	url    *url.URL
	cred   fetcher.Secret
	span   string // the Range header, or ""
	away   bool   // follow redirects to other origins too, without the token
	absent error  // what the Hub's 404 without a code says; nil: nothing
}

// answer is a response and where it came from. The caller closes its body.
type answer struct {
	*http.Response
	url  *url.URL      // the one that answered
	home bool          // whether that is the endpoint's origin, reached without leaving it
	seen []http.Header // of every response on the way, this one last
}

// header returns the last value that any response on the way gave for name.
func (a *answer) header(name string) string {
	for i := len(a.seen) - 1; i >= 0; i-- {
		if v := a.seen[i].Get(name); v != "" {
			return v
		}
	}
	return ""
}

// isRedirect reports whether status points to another place for the same method.
func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// send asks q and follows redirects: at the endpoint's origin always, to another
// one only if q.away. A redirect that is not followed is the answer. An error is
// one of the network or of a redirect that may not be followed; any status is an answer.
func (c *Client) send(ctx context.Context, q request) (*answer, error) {
	if !sendable(q.cred.Reveal()) {
		return nil, fmt.Errorf("%s: %w: it has characters that no token has", q.what, fetcher.ErrBadToken)
	}
	a := &answer{url: q.url, home: c.home(q.url)}
	if a.home && a.url.Scheme == "http" && !q.cred.IsZero() && !c.tokensOverHTTP {
		return nil, fmt.Errorf("%s: %w, where anyone on the way can read it: give an https:// endpoint, or allow it with hub.tokensOverHTTP (--tokens-over-http)", q.what, fetcher.ErrInsecure)
	}
	for hop := 0; ; hop++ {
		res, err := c.once(ctx, q, a)
		if err != nil {
			return nil, err
		}
		a.Response = res
		a.seen = append(a.seen, res.Header)
		if !isRedirect(res.StatusCode) {
			return a, nil
		}
		next, err := redirectTarget(a.url, res.Header.Get("Location"))
		if err == nil && hop == maxRedirects {
			err = fmt.Errorf("more than %d redirects", maxRedirects)
		}
		if err != nil {
			res.Body.Close()
			return nil, unusable(q, err)
		}
		home := a.home && c.home(next)
		if !home && !q.away {
			return a, nil
		}
		discard(res.Body)
		if err := downgrade(q, a.url, next); err != nil {
			return nil, err
		}
		a.url, a.home = next, home
	}
}

// once sends one request to a.url, unless the Hub has asked to wait with it.
func (c *Client) once(ctx context.Context, q request, a *answer) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, q.method, "", nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", q.what, err)
	}
	req.URL, req.Host = a.url, a.url.Host
	req.Header.Set("User-Agent", c.userAgent)
	req.Header.Set("Accept-Encoding", "identity") // else lengths are hidden
	if q.span != "" {
		req.Header.Set("Range", q.span)
	}
	if a.home && !q.cred.IsZero() {
		req.Header.Set("Authorization", "Bearer "+q.cred.Reveal())
	}
	if !a.home {
		return c.stray(ctx, q, req)
	}
	if wait := c.gate.left(limit{c.bucketOf(a.url), q.cred}); wait > 0 {
		return nil, &fetcher.RateLimitedError{RetryAfter: wait, Err: fmt.Errorf("%s: %s asked to wait with it", q.what, a.url.Host)}
	}
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, networkError(ctx, q, err)
	}
	c.heed(q.cred, res)
	return res, nil
}

// stray sends a request to where a redirect led. What that connects to is guarded.
func (c *Client) stray(ctx context.Context, q request, req *http.Request) (*http.Response, error) {
	transport := c.direct
	proxy, err := c.proxy(req)
	if err == nil && proxy != nil {
		transport = c.transport // the proxy connects
	}
	var res *http.Response
	if err == nil {
		err = c.guard.host(req.URL.Hostname())
	}
	if err == nil {
		res, err = transport.RoundTrip(req)
	}
	var refused *offLimits
	switch {
	case errors.As(err, &refused):
		return nil, fmt.Errorf("%s: a redirect to %s: %w", q.what, clean(req.URL.Host, q.cred), refused)
	case err != nil:
		return nil, networkError(ctx, q, err)
	}
	return res, nil
}

// sendable reports whether token can be a header's value.
func sendable(token string) bool {
	for _, b := range []byte(token) {
		if b <= ' ' || b >= 0x7f {
			return false
		}
	}
	return true
}

// redirectTarget reads a Location header. Its errors do not repeat it: it may be
// signed.
func redirectTarget(from *url.URL, location string) (*url.URL, error) {
	if location == "" {
		return nil, errors.New("a redirect without a Location")
	}
	next, err := from.Parse(location)
	switch {
	case err != nil || next.Host == "":
		return nil, errors.New("a redirect to something that is no URL")
	case next.Scheme != "http" && next.Scheme != "https":
		return nil, fmt.Errorf("a redirect to scheme %.20q", next.Scheme)
	}
	next.User, next.Fragment = nil, ""
	return next, nil
}

// downgrade refuses to follow a redirect from https to http: the content, and the signed
// URL that gives it to anyone, could be read on the way, which no operator has allowed.
func downgrade(q request, from, next *url.URL) error {
	if from.Scheme != "https" || next.Scheme != "http" {
		return nil
	}
	return fmt.Errorf("%s: %w: %s is at https and sends content to http://%s, which could be read on the way: give an endpoint with https storage, or one at http://",
		q.what, fetcher.ErrOffLimits, clean(from.Host, q.cred), clean(next.Host, q.cred))
}

// discard lets the connection be used again if little is left of a body.
func discard(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 64<<10)
	body.Close()
}
