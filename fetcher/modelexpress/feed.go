package modelexpress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

// feed is one file's bytes on their way from a stream to an Object.
type feed struct {
	chunks chan []byte     // closed when no more come
	err    error           // why; io.EOF: the file is whole. Written before chunks is closed
	wanted context.Context // ends when the Object wants no more
	stop   context.CancelFunc
}

func newFeed(life context.Context) *feed {
	wanted, stop := context.WithCancel(life)
	return &feed{chunks: make(chan []byte), wanted: wanted, stop: stop}
}

// give hands over data; it returns false if no more is wanted.
func (f *feed) give(data []byte) bool {
	select {
	case f.chunks <- data:
		return true
	case <-f.wanted.Done():
		return false
	}
}

func (f *feed) finish(err error) {
	f.err = err
	close(f.chunks)
}

// next waits for more. When ctx ends the feed stays where it is.
func (f *feed) next(ctx context.Context) ([]byte, error) {
	select {
	case data, ok := <-f.chunks:
		if !ok {
			return nil, f.err
		}
		return data, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// errIgnoresSelector says that the server sends all files whatever it is asked for, as
// releases before 0.4.0 do.
var errIgnoresSelector = errors.New("the server ignores which file is asked for")

// stream begins a stream of one file, and returns when its first chunk is here.
func (c *Client) stream(ctx context.Context, rev fetcher.Revision, file fetcher.File) (*feed, error) {
	what := fmt.Sprintf("read %s of %s from %s", file.Path, rev, c.server)
	var f *feed
	err := c.withToken(func() error {
		f = newFeed(c.life)
		begun := make(chan error, 1)
		if err := c.start(func() { c.pour(f, what, rev, file, begun) }); err != nil {
			f.stop()
			return err
		}
		late := time.NewTimer(c.limits.answer)
		defer late.Stop()
		var err error
		select {
		case err = <-begun:
		case <-late.C:
			err = unreachable("%s: no answer in %s", what, c.limits.answer)
		case <-ctx.Done():
			err = fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		if err != nil {
			f.stop()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// pour reads the stream of one file into f. begun is told how it begins.
func (c *Client) pour(f *feed, what string, rev fetcher.Revision, file fetcher.File, begun chan<- error) {
	defer f.stop() // and with it the call
	t, err := c.play(f.wanted, what, rev, &modelexpresspb.ModelFileSelector{Paths: []string{file.Path.String()}})
	var chunk *modelexpresspb.FileChunk
	if err == nil {
		chunk, err = t.next()
	}
	switch {
	case err == io.EOF:
		err = unreachable("%s: nothing comes", what)
	case err == nil:
		err = suits(what, chunk, file)
	}
	begun <- err
	for err == nil {
		last := chunk.IsLastChunk
		if last {
			err = c.nothingAfter(t, file)
		}
		switch {
		case err != nil:
		case !f.give(chunk.Data):
			err = context.Canceled
		case last:
			err = io.EOF
		default:
			chunk, err = t.next()
		}
	}
	f.finish(err)
}

// suits makes sure that a file's first chunk is of the file that is wanted.
func suits(what string, chunk *modelexpresspb.FileChunk, file fetcher.File) error {
	switch {
	case chunk.RelativePath != file.Path.String():
		return errIgnoresSelector
	case chunk.TotalSize != uint64(file.Size):
		return unreachable("%s: the server's has %d bytes instead of %d", what, chunk.TotalSize, file.Size)
	}
	return nil
}

// nothingAfter makes sure that the stream ends with file, unless the server ignores
// selectors.
func (c *Client) nothingAfter(t *tape, file fetcher.File) error {
	chunk, err := t.next()
	switch {
	case err == io.EOF:
		return nil
	case err != nil:
		return err
	case chunk.RelativePath == file.Path.String():
		return unreachable("%s: it goes on after its last chunk", t.what)
	}
	c.streamsWhole()
	return nil
}
