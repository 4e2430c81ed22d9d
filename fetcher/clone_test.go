package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// cloneReader is a reader whose Source can copy it into a file, or says that it cannot.
type cloneReader struct {
	io.Reader
	content []byte
	err     error
}

func (c *cloneReader) CloneTo(dst *os.File, off int64) error {
	if c.err != nil {
		if !errors.Is(c.err, errors.ErrUnsupported) {
			c.Reader = iotest.ErrReader(c.err) // it is of no more use
		}
		return c.err
	}
	_, err := dst.WriteAt(c.content, off)
	return err
}

// fileSink has Pieces cloned into a file if they can be.
type fileSink struct {
	*memSink
	file   *os.File
	cloned int
	late   bool // the first byte is read before
}

func (s *fileSink) Begin(ctx context.Context, f fetcher.File) (fetcher.Ingest, error) {
	in, err := s.memSink.Begin(ctx, f)
	return &fileIngest{in.(*memIngest), s}, err
}

func (s *fileSink) Commit(ctx context.Context, ins []fetcher.Ingest) error {
	for i := range ins {
		ins[i] = ins[i].(*fileIngest).memIngest
	}
	return s.memSink.Commit(ctx, ins)
}

type fileIngest struct {
	*memIngest
	sink *fileSink
}

func (in *fileIngest) WritePiece(p fetcher.Piece, r io.Reader) error {
	if in.sink.late {
		first := make([]byte, 1)
		if _, err := io.ReadFull(r, first); err != nil {
			return err
		}
		if err := r.(interface{ CloneTo(*os.File, int64) error }).CloneTo(in.sink.file, p.Offset); !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("a piece was cloned that had been read from: %w", err)
		}
		return in.memIngest.WritePiece(p, io.MultiReader(bytes.NewReader(first), r))
	}
	err := r.(interface{ CloneTo(*os.File, int64) error }).CloneTo(in.sink.file, p.Offset)
	if err == nil {
		in.sink.cloned++
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			return errors.New("it has not ended")
		}
		content := make([]byte, p.Size)
		if _, err := in.sink.file.ReadAt(content, p.Offset); err != nil {
			return err
		}
		r = bytes.NewReader(content)
	} else if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return in.memIngest.WritePiece(p, r)
}

func TestAPieceIsClonedWhereItsSourceCan(t *testing.T) {
	once := 0
	for name, c := range map[string]struct {
		reader func(r io.Reader, content []byte) (io.Reader, error)
		cloned int
		late   bool
		least  time.Duration
	}{
		"it can":          {func(r io.Reader, b []byte) (io.Reader, error) { return &cloneReader{r, b, nil}, nil }, 2, false, 0},
		"it was read":     {func(r io.Reader, b []byte) (io.Reader, error) { return &cloneReader{r, b, nil}, nil }, 0, true, 0},
		"it does not":     {func(r io.Reader, b []byte) (io.Reader, error) { return r, nil }, 0, false, 0},
		"it cannot":       {func(r io.Reader, b []byte) (io.Reader, error) { return &cloneReader{r, b, errors.ErrUnsupported}, nil }, 0, false, 0},
		"it breaks there": {func(r io.Reader, b []byte) (io.Reader, error) { return &cloneReader{r, b, errors.New("broken")}, nil }, 0, false, 0},
		"it is not reached at first": {func(r io.Reader, b []byte) (io.Reader, error) {
			if once++; once == 1 {
				return nil, &fetcher.UnreachableError{Err: errors.New("reset")}
			}
			return &cloneReader{r, b, nil}, nil
		}, 1, false, firstBackoff / 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newFetch(t, map[string][]byte{"f": append(filled(1000, 'a'), filled(500, 'b')...)})
			file, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			x.source.each = func(_ context.Context, a ask, r io.Reader) (io.Reader, error) {
				return c.reader(r, x.source.content[a.path][a.off:a.off+a.n])
			}
			e, err := fetcher.NewEngine(fetcher.EngineConfig{Connections: 1})
			if err != nil {
				t.Fatal(err)
			}
			sink := &fileSink{memSink: x.sink, file: file, late: c.late}
			job := x.job(sink)
			job.Progress = func(_ string, n int64) { x.progress += n }
			began := time.Now()
			if err := e.Fetch(t.Context(), job); err != nil || x.progress != 1500 || sink.cloned != c.cloned || time.Since(began) < c.least {
				t.Errorf("%s: %d bytes of progress, %d pieces cloned: %v", name, x.progress, sink.cloned, err)
			}
			x.wantHere("f")
		})
	}
}
