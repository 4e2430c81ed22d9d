package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// Open prepares reading f; it asks nothing of the network.
func (c *Client) Open(_ context.Context, rev fetcher.Revision, f fetcher.File, cred fetcher.Secret) (fetcher.Object, error) {
	return &object{
		client: c, rev: rev, file: f, cred: cred,
		source: c.resolveURL(rev.Repo, rev.Commit.Ref(), f.Path),
		turn:   make(chan struct{}, 1),
	}, nil
}

// object is one file of the Hub. Where its bytes are is asked once, without a
// Range, for a CDN's URL asked for with one serves only that range; all ranges
// are then read from there until the CDN says the URL has expired.
type object struct {
	client *Client
	rev    fetcher.Revision
	file   fetcher.File
	cred   fetcher.Secret
	source *url.URL

	turn  chan struct{} // holds a token while place is read or written: a lock that a context ends
	place *url.URL      // where the bytes are; nil: not asked
}

func (o *object) Close() error { return nil }

// ReadRange asks for the range, or for the whole file if that is what is wanted:
// then the request that would resolve it brings it.
func (o *object) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n <= 0 || off > o.file.Size || n > o.file.Size-off {
		return nil, fmt.Errorf("read %d bytes from %d of %s of %s: it has %d bytes", n, off, o.file.Path, o.rev, o.file.Size)
	}
	q := request{
		what:   fmt.Sprintf("read bytes %d-%d of %s of %s", off, off+n-1, o.file.Path, o.rev),
		method: http.MethodGet, cred: o.cred, away: true, absent: errNoFile,
	}
	whole := n == o.file.Size
	if !whole {
		q.span = fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	}
	var expired *url.URL
	for attempt := 0; ; attempt++ {
		q.url = o.source
		if !whole {
			place, err := o.locate(ctx, expired)
			if err != nil {
				return nil, err
			}
			q.url = place
		}
		a, err := o.client.send(ctx, q)
		if err != nil {
			return nil, err
		}
		if !refused(a) {
			return o.reader(ctx, q, a, off, n)
		}
		a.Body.Close()
		if attempt > 0 { // a firewall, a clock: nothing that the token could mend
			return nil, &fetcher.UnreachableError{Err: fmt.Errorf("%s: %s refuses a URL just signed: %s", q.what, clean(a.url.Host, o.cred), statusText(a.StatusCode))}
		}
		o.client.log.Debug("content URL expired", zap.Stringer("revision", o.rev), zap.Stringer("path", o.file.Path))
		expired = q.url
	}
}

// refused reports whether another host than the Hub refused a signed URL.
func refused(a *answer) bool {
	return !a.home && (a.StatusCode == http.StatusForbidden || a.StatusCode == http.StatusUnauthorized || a.StatusCode == http.StatusNotFound)
}

// locate returns where the bytes are, other than expired. One caller asks; the
// others wait for it.
func (o *object) locate(ctx context.Context, expired *url.URL) (*url.URL, error) {
	what := fmt.Sprintf("find where %s of %s is", o.file.Path, o.rev)
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	if o.place != nil && o.place != expired {
		return o.place, nil
	}
	asking, cancel := context.WithTimeoutCause(ctx, askTimeout, &fetcher.UnreachableError{Err: fmt.Errorf("no answer in %s", askTimeout)})
	defer cancel()
	q := request{what: what, method: http.MethodHead, url: o.source, cred: o.cred, absent: errNoFile}
	a, err := o.client.send(asking, q)
	if err != nil {
		return nil, err
	}
	a.Body.Close()
	switch {
	case a.StatusCode == http.StatusOK:
		o.place = a.url
	case isRedirect(a.StatusCode):
		next, err := redirectTarget(a.url, a.Header.Get("Location"))
		if err != nil {
			return nil, unusable(q, err)
		}
		if err := downgrade(q, a.url, next); err != nil {
			return nil, err
		}
		o.place = next
	default:
		return nil, o.client.statusError(asking, q, a)
	}
	return o.place, nil
}

// reader checks that an answer is the one asked for. Bytes of another shape are some
// server's or proxy's mistake, which another try may not meet, not the repository's.
func (o *object) reader(ctx context.Context, q request, a *answer, off, n int64) (io.ReadCloser, error) {
	q.what += " from " + clean(a.url.Host, q.cred)
	wrong := ""
	switch {
	case a.StatusCode != http.StatusOK && a.StatusCode != http.StatusPartialContent:
		defer a.Body.Close()
		return nil, o.client.statusError(ctx, q, a)
	case a.StatusCode == http.StatusOK && q.span != "":
		wrong = "the whole file came instead of a range"
	case a.StatusCode == http.StatusPartialContent && q.span == "":
		wrong = "a range came instead of the whole file"
	case q.span != "" && !o.isRange(a.Header.Get("Content-Range"), off, n):
		wrong = fmt.Sprintf("the range that came is %.60q", a.Header.Get("Content-Range"))
	case a.ContentLength >= 0 && a.ContentLength != n:
		wrong = fmt.Sprintf("%d bytes came instead of %d", a.ContentLength, n)
	case a.Header.Get("Content-Encoding") != "" && !strings.EqualFold(a.Header.Get("Content-Encoding"), "identity"):
		wrong = fmt.Sprintf("it came encoded as %.20q", a.Header.Get("Content-Encoding"))
	}
	if wrong != "" {
		a.Body.Close()
		return nil, unusable(q, errors.New(wrong))
	}
	return &reader{ctx: ctx, query: q, body: a.Body, left: n, open: a.ContentLength < 0}, nil
}

// isRange reports whether a Content-Range header says n bytes from off.
func (o *object) isRange(header string, off, n int64) bool {
	want := fmt.Sprintf("bytes %d-%d/", off, off+n-1)
	total, ok := strings.CutPrefix(header, want)
	return ok && (total == "*" || total == fmt.Sprint(o.file.Size))
}

// reader gives exactly the bytes that were asked for, or an error.
type reader struct {
	ctx   context.Context
	query request
	body  io.ReadCloser
	left  int64
	open  bool // the answer named no length: there may be more than was asked for
}

func (r *reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case r.left == 0:
		return n, r.atEnd(err)
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		return n, &fetcher.UnreachableError{Err: fmt.Errorf("%s: the answer ends %d bytes early", r.query.what, r.left)}
	}
	return n, networkError(r.ctx, r.query, err)
}

// atEnd makes sure that nothing follows the last byte.
func (r *reader) atEnd(err error) error {
	if err != nil || !r.open {
		return nil
	}
	var more [1]byte
	n, err := io.ReadFull(r.body, more[:])
	switch {
	case n > 0:
		return unusable(r.query, errors.New("it is longer than the manifest says"))
	case err == io.EOF:
		return nil
	}
	return networkError(r.ctx, r.query, err)
}

func (r *reader) Close() error { return r.body.Close() }
