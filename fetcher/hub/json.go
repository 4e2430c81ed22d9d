package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	// maxToken bounds one JSON token, or one entry of a listing, in bytes.
	maxToken = 1 << 20
	// maxDepth bounds how deep an answer's JSON is nested.
	maxDepth = 100
)

// formError says that an answer is not what the Hub's API would give.
type formError struct{ error }

func notHubs(format string, args ...any) error { return formError{fmt.Errorf(format, args...)} }

// askJSON sends a GET to the API, which must answer 200 at the endpoint's own
// origin, and lets read take what it wants of the body, whose length it takes from
// *budget. A formError of read, as bad JSON, means that this is not the Hub's
// answer; any other error of read is an answer that makes no sense.
func (c *Client) askJSON(ctx context.Context, q request, budget *int64, read func(*document) error) (*answer, error) {
	asking, cancel := context.WithTimeoutCause(ctx, askTimeout, &fetcher.UnreachableError{Err: fmt.Errorf("no whole answer in %s", askTimeout)})
	defer cancel()
	q.method = http.MethodGet
	a, err := c.send(asking, q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return nil, c.statusError(asking, q, a)
	}
	body := &bounded{r: a.Body, left: budget}
	d := &document{json.NewDecoder(body), body}
	d.dec.UseNumber() // any number can be skipped
	if err := errors.Join(read(d), body.err); err != nil {
		return nil, answerError(asking, q, body.err, err)
	}
	return a, nil
}

// document reads a JSON answer piecemeal: only what is kept of it takes memory.
type document struct {
	dec  *json.Decoder
	body *bounded
}

// token returns the next one.
func (d *document) token() (json.Token, error) {
	d.body.grace = maxToken
	t, err := d.dec.Token()
	return t, jsonError(err)
}

// open reads the delimiter with which an array or object begins.
func (d *document) open(want json.Delim) error {
	t, err := d.token()
	if err == nil && t != json.Token(want) {
		err = notHubs("it does not begin with %s", want)
	}
	return err
}

// value returns the next value, of no more than about maxToken bytes.
func (d *document) value() (raw json.RawMessage, err error) {
	d.body.grace = maxToken
	return raw, jsonError(d.dec.Decode(&raw))
}

// text returns the next value if it is a string, else "".
func (d *document) text() (s string, err error) {
	raw, err := d.value()
	if err != nil || json.Unmarshal(raw, &s) != nil {
		return "", err
	}
	return s, nil
}

// skip reads over the next value, of any length.
func (d *document) skip() error {
	for depth := 0; ; {
		t, err := d.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('['), json.Delim('{'):
			depth++
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
		if depth == 0 {
			return nil
		}
		if depth > maxDepth {
			return notHubs("it is nested deeper than %d", maxDepth)
		}
	}
}

// more reports whether the array or object that is open goes on.
func (d *document) more() bool {
	d.body.grace = maxToken
	return d.dec.More()
}

// jsonError makes an error of the decoder one of form, unless it is the body's end.
func jsonError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	return formError{err}
}

var errTooLong = errors.New("it is longer than any that makes sense")

// bounded reads until *left bytes are used up, or grace, and keeps the error that
// ended it.
type bounded struct {
	r     io.Reader
	left  *int64
	grace int64
	err   error
}

func (b *bounded) Read(p []byte) (int, error) {
	if *b.left <= 0 || b.grace <= 0 {
		b.err = errTooLong
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), *b.left, b.grace)])
	*b.left -= int64(n)
	b.grace -= int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// answerError says why a JSON answer could not be read: body is what ended it,
// reading what was made of it.
func answerError(ctx context.Context, q request, body, reading error) error {
	switch {
	case errors.Is(body, errTooLong):
		return malformed(q, body)
	case body != nil:
		return networkError(ctx, q, body)
	case errors.Is(reading, io.ErrUnexpectedEOF):
		return &fetcher.UnreachableError{Err: fmt.Errorf("%s: the answer ends early", q.what)}
	case errors.As(reading, &formError{}):
		return unusable(q, fmt.Errorf("this is not the Hub's answer: %w", reading))
	}
	return malformed(q, reading)
}
