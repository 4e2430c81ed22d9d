package sourcetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// stall is how long a Source may give nothing in these tests.
const stall = time.Second

// memory is a Sink that keeps what hashes to its Digest.
type memory struct {
	mu   sync.Mutex // guards here
	here map[string][]byte
}

func (m *memory) Begin(_ context.Context, f fetcher.File) (fetcher.Ingest, error) {
	return &ingest{file: f, data: make([]byte, f.Size), held: make([]bool, fetcher.Pieces(f.Size))}, nil
}

func (m *memory) Commit(_ context.Context, verified []fetcher.Ingest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range verified {
		m.here[in.File().Path.String()] = in.(*ingest).data
	}
	return nil
}

type ingest struct {
	file fetcher.File

	mu   sync.Mutex // guards held, and with it the Pieces of data
	data []byte
	held []bool
}

func (in *ingest) File() fetcher.File { return in.file }

func (in *ingest) Missing() (list []fetcher.Piece) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for i, held := range in.held {
		if !held {
			list = append(list, fetcher.PieceAt(i, in.file.Size))
		}
	}
	return list
}

func (in *ingest) WritePiece(p fetcher.Piece, r io.Reader) error {
	if _, err := io.ReadFull(r, in.data[p.Offset:p.Offset+p.Size]); err != nil {
		return err
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return fmt.Errorf("after the last byte of piece %d: %d bytes, %v", p.Index, n, err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.held[p.Index] = true
	return nil
}

func (in *ingest) Verify() error {
	h := fetcher.NewHasher(in.file.Digest.Algorithm(), in.file.Size)
	h.Write(in.data)
	got, err := h.Digest()
	if err == nil && got == in.file.Digest {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	clear(in.held)
	return &fetcher.MismatchError{File: in.file, Got: got, Err: err}
}

func (in *ingest) Close() error { return nil }

// inMemory is an honest Source.
type inMemory []Content

func (inMemory) Name() string { return "honest" }

func (s inMemory) Open(_ context.Context, _ fetcher.Revision, f fetcher.File, _ fetcher.Secret) (fetcher.Object, error) {
	for _, c := range s {
		if c.Path == f.Path {
			return object(c.Bytes), nil
		}
	}
	return nil, fmt.Errorf("%s: %w", f.Path, fetcher.ErrAbsent)
}

type object []byte

func (o object) ReadRange(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o[off : off+n])), nil
}

func (object) Close() error { return nil }

// fetch is one Fetch, and what was told of it.
type fetch struct {
	sink   *memory
	passed map[string][]fetcher.Passed // by path
	bytes  map[string]int64            // by Source
	err    error
}

// bring has a new Engine fetch content from sources in order.
func bring(ctx context.Context, t *testing.T, h Harness, content []Content, sources ...fetcher.Source) *fetch {
	t.Helper()
	e, err := fetcher.NewEngine(fetcher.EngineConfig{Stall: stall})
	if err != nil {
		t.Fatal(err)
	}
	x := &fetch{sink: &memory{here: map[string][]byte{}}, passed: map[string][]fetcher.Passed{}, bytes: map[string]int64{}}
	job := fetcher.Job{
		Sources: sources, Revision: h.Revision, Credential: h.Credential, Sink: x.sink,
		Progress: func(source string, n int64) { x.bytes[source] += n },
		Passed: func(p fetcher.Passed) {
			x.passed[p.File.Path.String()] = append(x.passed[p.File.Path.String()], p)
		},
	}
	for _, c := range content {
		job.Files = append(job.Files, c.File)
	}
	x.err = e.Fetch(ctx, job)
	for _, c := range content {
		if b, ok := x.sink.here[c.Path.String()]; ok && !bytes.Equal(b, c.Bytes) {
			t.Errorf("%s was taken, and its bytes are others", c.Path)
		}
	}
	return x
}
