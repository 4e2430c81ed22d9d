package store_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// clonable gives its bytes to be read, or copies them into a file by itself.
type clonable struct {
	io.Reader
	content []byte
	err     error // of CloneTo, after half of the bytes
}

func (c *clonable) CloneTo(dst *os.File, off int64) error {
	if errors.Is(c.err, errors.ErrUnsupported) {
		return c.err
	}
	if c.err != nil {
		_, err := dst.WriteAt(bytes.Repeat([]byte("x"), len(c.content)/2), off)
		return errors.Join(c.err, err)
	}
	c.Reader = bytes.NewReader(nil)
	_, err := dst.WriteAt(c.content, off)
	return err
}

func TestAPieceIsClonedIfItsSourceCan(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		err  error
		read bool // the bytes come by Read
	}{
		"cloned": {}, "read instead": {err: errors.ErrUnsupported, read: true}, "broken": {err: broken},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.Open(t) // whose sums of Pieces are checked in the end
			content := random(3, fetcher.PieceSize+777)
			f := storetest.File(t, "w.bin", content, true)
			in := begin(t, s, originA, f)
			for _, p := range in.Missing() {
				piece := content[p.Offset : p.Offset+p.Size]
				var r io.Reader = bytes.NewReader(piece)
				if !c.read {
					r = io.MultiReader() // nothing to be read
				}
				if err := in.WritePiece(p, &clonable{r, piece, c.err}); !errors.Is(err, c.err) && !c.read || err != nil && c.read {
					t.Fatalf("piece %d: %v", p.Index, err)
				}
			}
			if c.err == broken {
				if missing := in.Missing(); len(missing) != 2 {
					t.Errorf("missing after an error: %v", missing)
				}
				return
			}
			if err := in.Verify(); err != nil {
				t.Fatal(err)
			}
			if err := s.Commit(t.Context(), []*store.Ingest{in}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What was cloned is hashed where it lies: the file it came from may have changed since.
func TestWhatWasClonedMustMatchTheDigestToo(t *testing.T) {
	s := storetest.Open(t)
	content := random(3, 5000)
	in := begin(t, s, originA, storetest.File(t, "w.bin", content, true))
	other := random(4, 5000)
	var mismatch *fetcher.MismatchError
	if err := in.WritePiece(in.Missing()[0], &clonable{bytes.NewReader(content), other, nil}); err != nil {
		t.Fatal(err)
	}
	if err := in.Verify(); !errors.As(err, &mismatch) {
		t.Errorf("%v", err)
	}
}
