package modelexpress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// object is one file of a server, read from its start to its end: a request names no
// offset. What lies before the first range is discarded.
type object struct {
	client *Client
	rev    fetcher.Revision
	file   fetcher.File

	// Of the stream under way; none: feed is nil.
	feed  *feed
	place *place // nil: this stream needs none
	rest  []byte // came, and is yet to be asked for
	pos   int64  // of rest in the file

	reading bool
}

var _ fetcher.Sequential = (*object)(nil)

// Sequential says that ranges are asked for in order.
func (o *object) Sequential() {}

// begin begins a stream, in a place that may be taken from whoever was idle so long.
func (o *object) begin(ctx context.Context, idle time.Duration) error {
	o.end()
	err := errIgnoresSelector
	if !o.client.whole() {
		err = o.beginAlone(ctx, idle)
	}
	if err == errIgnoresSelector {
		o.client.streamsWhole()
		o.feed, err = o.client.board(ctx, o.rev, o.file)
	}
	if err != nil && ctx.Err() == nil {
		o.client.doubt(o.rev, err)
	}
	return err
}

// beginAlone begins a stream of this file alone.
func (o *object) beginAlone(ctx context.Context, idle time.Duration) error {
	c := o.client
	place, err := c.places.take(ctx, idle)
	if err != nil {
		return fmt.Errorf("wait for one of %d streams of %s from %s: %w", c.cfg.Streams, o.rev, c.server, err)
	}
	switch err = c.verdict(o.rev); { // what others have learnt meanwhile
	case err != nil:
	case c.whole():
		err = errIgnoresSelector
	default:
		o.feed, err = c.stream(ctx, o.rev, o.file)
	}
	if err != nil {
		c.places.leave(place)
		return err
	}
	o.place = place
	o.idle()
	return nil
}

// end ends the stream under way, if there is one.
func (o *object) end() {
	if o.feed != nil {
		o.feed.stop()
	}
	if o.place != nil {
		o.client.places.leave(o.place)
	}
	o.feed, o.place, o.rest, o.pos = nil, nil, nil, 0
}

// idle says that nobody reads.
func (o *object) idle() {
	if o.place != nil {
		o.client.places.rest(o.place, o.feed.stop)
	}
}

// Close ends the stream.
func (o *object) Close() error {
	o.end()
	return nil
}

// ReadRange reads on from where the last range ended, or begins anew.
func (o *object) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	switch {
	case off < 0 || n <= 0 || off > o.file.Size || n > o.file.Size-off:
		return nil, fmt.Errorf("read %d bytes from %d of %s of %s: it has %d bytes", n, off, o.file.Path, o.rev, o.file.Size)
	case o.reading:
		return nil, fmt.Errorf("read %s of %s: another range is being read", o.file.Path, o.rev)
	}
	if o.place != nil && !o.client.places.use(o.place) || o.pos > off {
		o.end()
	}
	if o.feed == nil {
		if err := o.begin(ctx, eager); err != nil {
			return nil, err
		}
		if o.place != nil {
			o.client.places.use(o.place)
		}
	}
	o.reading = true
	return &reader{object: o, ctx: ctx, off: off, left: n}, nil
}

// reader reads one range.
type reader struct {
	object *object
	ctx    context.Context
	off    int64 // of the next byte
	left   int64 // bytes
	came   bool  // anything, in this range's time
	err    error
	closed bool
}

func (r *reader) Read(p []byte) (int, error) {
	switch {
	case r.left == 0:
		return 0, io.EOF
	case r.err != nil:
		return 0, r.err
	case r.closed:
		return 0, os.ErrClosed
	case len(p) == 0:
		return 0, nil
	}
	o := r.object
	for o.pos < r.off || len(o.rest) == 0 {
		if len(o.rest) == 0 {
			if r.err = r.more(); r.err != nil {
				return 0, r.err
			}
		}
		skip := min(r.off-o.pos, int64(len(o.rest)))
		o.rest, o.pos = o.rest[skip:], o.pos+skip
	}
	n := copy(p[:min(int64(len(p)), r.left)], o.rest)
	o.rest, o.pos = o.rest[n:], o.pos+int64(n)
	r.off, r.left = r.off+int64(n), r.left-int64(n)
	if o.pos == o.file.Size {
		o.end() // its place is another's from now on
	}
	return n, nil
}

// more waits for the next chunk. A stream that still flows outlives a range that was given
// up: what has been discarded does not come again.
func (r *reader) more() error {
	o := r.object
	data, err := o.feed.next(r.ctx)
	if err == nil {
		o.rest, r.came = data, true
		return nil
	}
	what := fmt.Sprintf("read %d bytes from %d of %s of %s from %s", r.left, r.off, o.file.Path, o.rev, o.client.server)
	switch {
	case r.ctx.Err() != nil:
		err = fmt.Errorf("%s: %w", what, context.Cause(r.ctx))
		if r.came {
			return err
		}
	case err == io.EOF: // the stream was of the size that the Manifest says
		err = unreachable("%s: it has ended", what)
	case errors.Is(err, context.Canceled):
		err = unreachable("%s: the stream was ended", what)
	}
	o.end()
	if r.ctx.Err() == nil {
		o.client.doubt(o.rev, err)
	}
	return err
}

// Close ends the range. The stream stays, for the next one.
func (r *reader) Close() error {
	if !r.closed {
		r.closed, r.object.reading = true, false
		r.object.idle()
	}
	return nil
}
