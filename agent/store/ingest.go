package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/ballast-csi/ballast/fetcher"
)

// Ingest is one file's bytes on their way in through one Origin. It satisfies
// fetcher.Ingest: different Pieces may be written at the same time.
//
// A Hasher follows the transfer: the goroutine that finishes the Piece at the
// frontier (the first not hashed) reads it back from the page cache and hashes it, and
// whatever lies finished behind it; the others go on writing.
type Ingest struct {
	s      *Store
	origin Origin
	file   fetcher.File
	place  place
	data   *os.File
	log    journal // unused by a file of one Piece

	mu     sync.Mutex // guards everything below
	idle   sync.Cond  // hashing became false; its lock is mu
	pieces []piece
	// hashing says that a goroutine owns hasher and hashed.
	hashing bool
	hasher  *fetcher.Hasher
	hashed  int // Pieces that went into hasher
	state   ingestState
}

type piece struct {
	state pieceState
	sum   uint64 // xxhash64, if held
}

type pieceState int

const (
	missing pieceState = iota
	writing
	held
)

type ingestState int

const (
	filling  ingestState = iota
	verified             // the bytes hashed to the Digest; no more are taken
	spent                // committed or discarded: nothing is left on disk
	closed
)

// bufferSize is how much is read from a Source or the disk at once, in bytes. Smaller
// reads cost more system time than the hashing they feed.
const bufferSize = 1 << 20

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// File returns what is brought.
func (in *Ingest) File() fetcher.File { return in.file }

// Origin returns what it is brought through.
func (in *Ingest) Origin() Origin { return in.origin }

// Missing lists the Pieces not yet held, in order.
func (in *Ingest) Missing() []fetcher.Piece {
	in.mu.Lock()
	defer in.mu.Unlock()
	var list []fetcher.Piece
	for i, p := range in.pieces {
		if p.state != held {
			list = append(list, fetcher.PieceAt(i, in.file.Size))
		}
	}
	return list
}

// WritePiece reads exactly p.Size bytes from r, to its end, and keeps them as p. On
// an error, which wraps r's if that failed, p is still missing. If r is a cloner, the
// kernel may copy them.
func (in *Ingest) WritePiece(p fetcher.Piece, r io.Reader) error {
	if err := in.claim(p); err != nil {
		return in.wrap(p, err)
	}
	sum, err := in.cloneIn(p, r)
	if errors.Is(err, errors.ErrUnsupported) {
		sum, err = in.copyIn(p, r)
	}
	if err == nil && len(in.pieces) > 1 {
		err = in.log.add(p.Index, sum)
	}
	in.mu.Lock()
	in.pieces[p.Index] = piece{held, sum}
	if err != nil {
		in.pieces[p.Index] = piece{state: missing}
	}
	in.mu.Unlock()
	if err != nil {
		return in.wrap(p, in.s.explain(err))
	}
	_ = in.advance() // if a Piece cannot be read back, Verify tries again and says so
	return nil
}

func (in *Ingest) wrap(p fetcher.Piece, err error) error {
	return fmt.Errorf("write %s of %s, bytes %d to %d: %w", in.file.Path, in.origin.Repo, p.Offset, p.Offset+p.Size, err)
}

// claim marks p as being written.
func (in *Ingest) claim(p fetcher.Piece) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.state != filling:
		return errors.New("the ingest takes no more bytes")
	case p.Index < 0 || p.Index >= len(in.pieces) || p != fetcher.PieceAt(p.Index, in.file.Size):
		return fmt.Errorf("there is no piece %+v in %d bytes", p, in.file.Size)
	case in.pieces[p.Index].state != missing:
		return errors.New("the piece is held, or being written")
	}
	in.pieces[p.Index].state = writing
	return nil
}

// copyIn writes r to p's place and returns the xxhash64 of what it wrote.
func (in *Ingest) copyIn(p fetcher.Piece, r io.Reader) (uint64, error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	h := xxhash.New()
	for off := int64(0); off < p.Size; {
		b := buf[:min(bufferSize, p.Size-off)]
		n, err := io.ReadFull(r, b)
		if err != nil {
			return 0, fmt.Errorf("source ended after %d bytes: %w", off+int64(n), err)
		}
		h.Write(b)
		if _, err := in.data.WriteAt(b, p.Offset+off); err != nil {
			return 0, err
		}
		off += int64(n)
	}
	switch n, err := io.ReadFull(r, buf[:1]); {
	case n > 0:
		return 0, fmt.Errorf("source gave more than %d bytes", p.Size)
	case err != io.EOF:
		return 0, fmt.Errorf("source did not end after %d bytes: %w", p.Size, err)
	}
	return h.Sum64(), nil
}

// advance hashes held Pieces from the frontier on, unless somebody is at it.
func (in *Ingest) advance() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.hashing {
		return nil
	}
	in.hashing = true
	defer func() {
		in.hashing = false
		in.idle.Broadcast()
	}()
	for in.hashed < len(in.pieces) && in.pieces[in.hashed].state == held {
		p := fetcher.PieceAt(in.hashed, in.file.Size)
		in.mu.Unlock()
		err := copyPiece(in.hasher, in.data, p)
		in.mu.Lock()
		if err != nil {
			// Part of the Piece went in: what the hasher holds is of no more use.
			in.restartHash()
			return in.wrap(p, fmt.Errorf("read back: %w", err))
		}
		in.hashed++
	}
	return nil
}

// restartHash forgets what was hashed. The caller holds mu and owns the hasher.
func (in *Ingest) restartHash() {
	in.hasher, in.hashed = fetcher.NewHasher(in.file.Digest.Algorithm(), in.file.Size), 0
}

// Verify reports whether the bytes hash to the Digest. If not, it returns a
// *fetcher.MismatchError without a Source, and every Piece is missing again.
func (in *Ingest) Verify() error {
	in.mu.Lock()
	for in.hashing {
		in.idle.Wait()
	}
	in.mu.Unlock()
	if err := in.advance(); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.state == verified:
		return nil
	case in.state != filling:
		return fmt.Errorf("verify %s of %s: the ingest is committed or closed", in.file.Path, in.origin.Repo)
	case in.hashed < len(in.pieces):
		return fmt.Errorf("verify %s of %s: piece %d of %d is missing", in.file.Path, in.origin.Repo, in.hashed+1, len(in.pieces))
	}
	got, err := in.hasher.Digest()
	if err == nil && got == in.file.Digest {
		in.state = verified
		return nil
	}
	mismatch := &fetcher.MismatchError{File: in.file, Got: got, Err: err}
	if err := in.restart(); err != nil {
		return errors.Join(mismatch, err)
	}
	return mismatch
}

// restart drops every Piece, on disk too. The caller holds mu and owns the hasher.
func (in *Ingest) restart() error {
	clear(in.pieces)
	in.restartHash()
	in.state = filling
	var err error
	if len(in.pieces) > 1 {
		err = in.log.reset() // first: no record without its bytes
	}
	if err == nil {
		err = in.data.Truncate(0)
	}
	if err == nil {
		err = in.allocate()
	}
	if err != nil {
		return fmt.Errorf("start %s of %s over: %w", in.file.Path, in.origin.Repo, err)
	}
	return nil
}

// Close ends this use. Pieces held and not committed stay for a later Ingest.
func (in *Ingest) Close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.state == closed {
		return nil
	}
	for in.hashing {
		in.idle.Wait()
	}
	in.state = closed
	err := in.data.Close()
	if in.log.f != nil {
		err = errors.Join(err, in.log.f.Close())
	}
	in.s.mu.Lock()
	defer in.s.mu.Unlock()
	delete(in.s.busy, in.place.name)
	return err
}

// copyPiece copies Piece p of f to w.
func copyPiece(w io.Writer, f io.ReaderAt, p fetcher.Piece) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	// io.CopyBuffer would pass the buffer over if either end had its own way.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.NewSectionReader(f, p.Offset, p.Size)}, buf[:])
	if err == nil && n != p.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
