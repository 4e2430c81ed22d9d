package hubcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/ballast-csi/ballast/fetcher"
)

// Open finds f: the Repo's blob of that name first, which another of its commits may
// have brought, else the file of the snapshot.
func (c *Cache) Open(ctx context.Context, rev fetcher.Revision, f fetcher.File, _ fetcher.Secret) (fetcher.Object, error) {
	file, err := c.OpenFile(ctx, rev, f)
	if err != nil {
		return nil, err
	}
	return &object{calls: c.calls, file: file, size: f.Size, what: fmt.Sprintf("read %s of %s from %s", f.Path, rev, file.Name())}, nil
}

// OpenFile opens f, for reading only. Whoever reads it must expect that reads hang.
func (c *Cache) OpenFile(ctx context.Context, rev fetcher.Revision, f fetcher.File) (*os.File, error) {
	what := fmt.Sprintf("open %s of %s in %s", f.Path, rev, c.dir)
	return do(ctx, c.calls, what, func() (*os.File, error) {
		file, err := c.find(rev, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return file, nil
	}, closeLate)
}

// find opens f. It may hang.
func (c *Cache) find(rev fetcher.Revision, f fetcher.File) (*os.File, error) {
	folder, err := c.openFolder(rev.Repo)
	if err != nil {
		return nil, err
	}
	defer folder.close()
	var failed error // the gravest
	for _, name := range []string{"blobs/" + f.Digest.Hex(), "snapshots/" + rev.Commit.String() + "/" + f.Path.String()} {
		found, err := folder.open(name)
		switch {
		case err == nil && found.stat.Size == f.Size:
			return found.File, nil
		case err == nil:
			found.Close()
			err = folder.absent(name, fmt.Sprintf("has %d bytes and not %d", found.stat.Size, f.Size))
		}
		if failed == nil || gravity(err) > gravity(failed) || gravity(failed) == 0 {
			failed = err // the snapshot's, if neither is there: it names the file
		}
	}
	if errors.Is(failed, fetcher.ErrAbsent) && folder.isArriving(f.Digest) {
		return nil, fmt.Errorf("%w: %s is being downloaded", fetcher.ErrAbsent, folder.shown("blobs/"+f.Digest.Hex()))
	}
	return nil, failed
}

// gravity orders what may be wrong with a file: it is not there, it is not whole, it
// cannot be read.
func gravity(err error) int {
	var absent *absentError
	switch {
	case !errors.As(err, &absent):
		return 2
	case !absent.gone:
		return 1
	}
	return 0
}

// maxListed bounds how many of a folder's blobs are looked at for those that arrive.
const maxListed = 4096

// isArriving reports whether a blob is being downloaded: blobs/<etag>.incomplete, or
// since huggingface_hub 1.18 blobs/<etag>.<8 hex>.incomplete.
func (f *folder) isArriving(d fetcher.Digest) bool {
	dir, err := f.openDir("blobs")
	if err != nil {
		return false
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxListed)
	for _, name := range names {
		if strings.HasPrefix(name, d.Hex()+".") && path.Ext(name) == incomplete {
			return true
		}
	}
	return false
}

// incomplete is how the name of a blob ends that is being downloaded.
const incomplete = ".incomplete"

// object is one file of a cache.
type object struct {
	calls *calls
	file  *os.File
	size  int64
	what  string // for errors
}

// Close closes the file; reads under way go on without anybody.
func (o *object) Close() error {
	closeFile(o.file)
	return nil
}

// ReadRange returns a reader, which reads nothing before it is read.
func (o *object) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n <= 0 || off > o.size || n > o.size-off {
		return nil, fmt.Errorf("%s: there are not %d bytes from %d: it has %d", o.what, n, off, o.size)
	}
	return &rangeReader{ctx: ctx, object: o, off: off, end: off + n}, nil
}

// bufferSize is how much is read at once, in bytes.
const bufferSize = 1 << 20

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// rangeReader reads a range. It is for one goroutine.
type rangeReader struct {
	ctx    context.Context
	object *object
	off    int64 // of what is read next
	end    int64
	err    error // what ended it

	buffer  *[bufferSize]byte // nil: none yet, or a call that was left has it
	pending []byte            // of buffer: read and not yet given
}

func (r *rangeReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.pending) == 0 {
		if r.err == nil && r.off == r.end {
			return 0, io.EOF
		}
		if r.err == nil {
			r.err = r.fill()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.pending)
	r.pending = r.pending[n:]
	return n, nil
}

// fill reads what comes next into the buffer.
func (r *rangeReader) fill() error {
	buffer := r.buffer
	if buffer == nil {
		buffer = buffers.Get().(*[bufferSize]byte)
	}
	r.buffer = nil // until the call is over
	off, want := r.off, min(r.end-r.off, bufferSize)
	n, err := do(r.ctx, r.object.calls, r.object.what, func() (int, error) {
		n, err := r.object.file.ReadAt(buffer[:want], off)
		return n, r.object.explain(off, want, n, err)
	}, nil)
	if err != nil {
		return err // the buffer may still be written to
	}
	r.buffer, r.pending, r.off = buffer, buffer[:n], off+int64(n)
	return nil
}

// explain says what the outcome of reading want bytes at off is.
func (o *object) explain(off, want int64, n int, err error) error {
	switch {
	case int64(n) == want:
		return nil
	case err == io.EOF:
		return &fetcher.UnreachableError{Err: fmt.Errorf("%s: it became shorter than %d bytes", o.what, off+want)}
	case denied(err): // some file servers look only now
		return fmt.Errorf("%s: %w: %w", o.what, fetcher.ErrUnreadable, err)
	}
	return &fetcher.UnreachableError{Err: fmt.Errorf("%s: %w", o.what, err)}
}

func (r *rangeReader) Close() error {
	if r.buffer != nil {
		buffers.Put(r.buffer)
	}
	r.buffer, r.pending = nil, nil
	if r.err == nil {
		r.err = os.ErrClosed
	}
	return nil
}
