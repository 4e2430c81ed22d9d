package modelexpress

import (
	"context"
	"fmt"
	"io"
	"math"
	"regexp"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

const (
	chunkSize = 1 << 20 // bytes that are asked for
	maxChunk  = 4 << 20 // bytes that are taken: four times as many
)

// otherCommitError says that the server has another commit than the one asked for, as all
// releases before 0.6.0 may. It is an ErrAbsent.
type otherCommitError struct {
	got  string
	want fetcher.Commit
}

func (e *otherCommitError) Error() string {
	got := fmt.Sprintf("commit %.60q", clean(e.got))
	switch {
	case e.got == "":
		got = "a commit that it does not name"
	case commitName.MatchString(e.got):
		got = "commit " + e.got
	}
	return fmt.Sprintf("%v: it serves %s, not %s", fetcher.ErrAbsent, got, e.want)
}

func (e *otherCommitError) Unwrap() error { return fetcher.ErrAbsent }

var commitName = regexp.MustCompile(`^[0-9a-f]{40}$`)

// tape reads a stream and holds it to what one must be: of the commit asked for, one file
// after another, each whole and in order.
type tape struct {
	what   string // is being done, for errors
	commit fetcher.Commit
	recv   func() (*modelexpresspb.FileChunk, error) // at its end io.EOF; other errors are final

	begun     bool
	path      string // of the file under way; "" between two
	size, pos int64  // of it, in bytes
}

// next returns the next chunk, of which only the path and the data are still to be judged,
// or io.EOF after the last file.
func (t *tape) next() (*modelexpresspb.FileChunk, error) {
	c, err := t.recv()
	switch {
	case err == io.EOF && t.path != "":
		return nil, unreachable("%s: it ends after %d of %d bytes of %q", t.what, t.pos, t.size, clean(t.path))
	case err != nil:
		return nil, err
	}
	if err := t.check(c); err != nil {
		return nil, fmt.Errorf("%s: %w", t.what, err)
	}
	t.pos += int64(len(c.Data))
	if c.IsLastChunk {
		t.path = ""
	}
	return c, nil
}

// play calls StreamModelFiles: for one path, or for all files.
func (c *Client) play(ctx context.Context, what string, rev fetcher.Revision, only *modelexpresspb.ModelFileSelector) (*tape, error) {
	commit := rev.Commit.String()
	stream, err := c.rpc.StreamModelFiles(ctx, &modelexpresspb.ModelFilesRequest{
		ModelName: rev.Repo.Name(), Provider: modelexpresspb.ModelProvider_HUGGING_FACE,
		ChunkSize: chunkSize, FileSelector: only, Revision: &commit,
	})
	if err != nil {
		return nil, callError(ctx, what, err)
	}
	return &tape{what: what, commit: rev.Commit, recv: func() (*modelexpresspb.FileChunk, error) {
		chunk, err := stream.Recv()
		if err != nil && err != io.EOF {
			err = callError(ctx, what, err)
		}
		return chunk, err
	}}, nil
}

func (t *tape) check(c *modelexpresspb.FileChunk) error {
	if !t.begun || c.CommitHash != nil {
		if c.GetCommitHash() != t.commit.String() {
			return &otherCommitError{c.GetCommitHash(), t.commit}
		}
		t.begun = true
	}
	if t.path == "" {
		if c.TotalSize > math.MaxInt64 || c.RelativePath == "" {
			return unreachable("it begins a file %q of %d bytes", clean(c.RelativePath), c.TotalSize)
		}
		t.path, t.size, t.pos = c.RelativePath, int64(c.TotalSize), 0
	}
	n := int64(len(c.Data))
	wrong := ""
	switch {
	case c.RelativePath != t.path: // what a server does whose file has become shorter meanwhile
		wrong = fmt.Sprintf("%q begins", clean(c.RelativePath))
	case c.TotalSize != uint64(t.size):
		wrong = fmt.Sprintf("its size becomes %d", c.TotalSize)
	case c.Offset != uint64(t.pos):
		wrong = fmt.Sprintf("a chunk comes that is of offset %d", c.Offset)
	case n > maxChunk:
		wrong = fmt.Sprintf("a chunk of %d bytes comes", n)
	case n > t.size-t.pos:
		wrong = "more comes"
	case n == 0 && t.size > 0:
		wrong = "an empty chunk comes"
	case c.IsLastChunk != (t.pos+n == t.size):
		wrong = fmt.Sprintf("a chunk of %d bytes comes, marked as the last: %v", n, c.IsLastChunk)
	}
	if wrong != "" {
		return unreachable("after %d of %d bytes of %q %s", t.pos, t.size, clean(t.path), wrong)
	}
	return nil
}
