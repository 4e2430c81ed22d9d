package store

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cespare/xxhash/v2"

	"github.com/ballast-csi/ballast/fetcher"
)

// cloner is a reader all of whose bytes the kernel can copy into dst at off. If it cannot,
// it returns errors.ErrUnsupported and they are still to be read.
type cloner interface {
	CloneTo(dst *os.File, off int64) error
}

// cloneIn has r cloned to p's place and returns the xxhash64 of what lies there then: what
// r was cloned from could be other bytes by now.
func (in *Ingest) cloneIn(p fetcher.Piece, r io.Reader) (uint64, error) {
	c, ok := r.(cloner)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	if err := c.CloneTo(in.data, p.Offset); err != nil {
		return 0, err
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return 0, fmt.Errorf("source did not end after %d bytes were cloned: %w", p.Size, err)
	}
	h := xxhash.New()
	if err := copyPiece(h, in.data, p); err != nil {
		return 0, fmt.Errorf("read back: %w", err)
	}
	return h.Sum64(), nil
}
