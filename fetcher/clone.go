package fetcher

import (
	"errors"
	"os"
)

// cloner is what a reader of ReadRange may be besides: one whose whole range the kernel can
// copy into dst at off by itself, if both are files of one file system. If it cannot it
// returns errors.ErrUnsupported and has read nothing; after another error the range is of
// no more use, and what it covers in dst may hold anything.
type cloner interface {
	CloneTo(dst *os.File, off int64) error
}

// CloneTo copies the whole Piece into dst at off, if its Source can. Whatever keeps it from
// that, a read then meets as well, and says so better: the error is errors.ErrUnsupported,
// and the Piece is still to be read.
func (p *pieceReader) CloneTo(dst *os.File, off int64) error {
	if p.pos > 0 || p.failed != nil || p.err != nil {
		return errors.ErrUnsupported
	}
	if p.body == nil {
		if err := p.ask(); err != nil {
			p.drop()
			p.failed = err
			return errors.ErrUnsupported
		}
	}
	c, ok := p.body.(cloner)
	if !ok {
		return errors.ErrUnsupported
	}
	switch err := c.CloneTo(dst, off); {
	case errors.Is(err, errors.ErrUnsupported):
		return err
	case err != nil:
		p.drop()
		return errors.ErrUnsupported
	}
	p.advance(p.piece.Size)
	return nil
}
