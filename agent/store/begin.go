package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// place is where an Ingest's bytes are: a file of one Piece (or none) is the file
// ingests/<name> itself; a larger one has data and journal in a directory of that name.
type place struct {
	name, dir, data, journal string // dir and journal are "" for a file of one Piece
}

const (
	dataFile    = "data"
	journalFile = "journal"
)

// ingestName names an Ingest after its Digest and its Origin.
func ingestName(o Origin, d fetcher.Digest) string {
	return string(d.Algorithm()) + "-" + d.Hex() + "-" + o.hash()
}

func (s *Store) ingestPlace(o Origin, f fetcher.File) place {
	name := ingestName(o, f.Digest)
	path := s.path(ingestsDir, name)
	if fetcher.Pieces(f.Size) <= 1 {
		return place{name: name, data: path}
	}
	return place{name, path, filepath.Join(path, dataFile), filepath.Join(path, journalFile)}
}

// Ingest begins or resumes bringing f through o. What was held of the same bytes
// through the same Origin is hashed and kept. It returns ErrBusy if that is open
// already, ErrNoSpace if the disk has no room for all of f now, and ErrTooLarge if it can
// never have: a size is only a claim.
func (s *Store) Ingest(o Origin, f fetcher.File) (*Ingest, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("ingest %s: %w", f.Path, err)
	}
	if f.Digest.IsZero() || f.Path.IsZero() || f.Size < 0 {
		return nil, fmt.Errorf("ingest %s of %s: no path, size or digest given", f.Path, o.Repo)
	}
	if err := s.usable(); err != nil {
		return nil, err
	}
	if err := s.fits(f.Size); err != nil {
		return nil, fmt.Errorf("ingest %s of %s: %w", f.Path, o.Repo, err)
	}
	in := &Ingest{s: s, origin: o, file: f, place: s.ingestPlace(o, f)}
	in.idle.L = &in.mu
	if !s.claimIngest(in.place.name) {
		return nil, fmt.Errorf("ingest %s of %s: %w", f.Path, o.Repo, ErrBusy)
	}
	if err := in.open(); err != nil {
		for _, file := range []*os.File{in.data, in.log.f} {
			if file != nil {
				file.Close()
			}
		}
		s.mu.Lock()
		delete(s.busy, in.place.name)
		s.mu.Unlock()
		return nil, fmt.Errorf("ingest %s of %s: %w", f.Path, o.Repo, s.explain(err))
	}
	return in, nil
}

// claimIngest reports whether name was free, and takes it.
func (s *Store) claimIngest(name string) bool {
	s.claiming.Lock()
	defer s.claiming.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[name] {
		return false
	}
	s.busy[name] = true
	return true
}

// open opens or makes what is on disk and finds out which Pieces are held.
func (in *Ingest) open() error {
	in.restartHash()
	resumable, err := in.place.resumable(in.file.Size)
	if err != nil {
		return err
	}
	if !resumable {
		if err := in.place.remove(); err != nil {
			return err
		}
	}
	if in.place.dir != "" {
		// Not synced: an Ingest that a power cut takes away is only begun again.
		if err := os.Mkdir(in.place.dir, privateDir); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		in.log.f, err = os.OpenFile(in.place.journal, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, privateFile)
		if err != nil {
			return err
		}
	}
	in.data, err = os.OpenFile(in.place.data, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, ingestMode)
	if err != nil {
		return err
	}
	if !resumable {
		if err := in.allocate(); err != nil {
			return errors.Join(err, in.place.remove())
		}
	}
	in.pieces = make([]piece, fetcher.Pieces(in.file.Size)) // not before there is a place for them
	if resumable {
		return in.resume()
	}
	return nil
}

// resumable reports whether the data on disk can be of a file of size bytes, and makes
// it writable: a Commit that a crash cut short left it read-only. Data with a second
// name is a Blob's, by a rename that a power cut left half done: never written to.
func (p place) resumable(size int64) (bool, error) {
	var st unix.Stat_t
	switch err := unix.Lstat(p.data, &st); {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return false, nil
	case err != nil:
		return false, &fs.PathError{Op: "lstat", Path: p.data, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Size != size {
		return false, nil
	}
	return true, os.Chmod(p.data, ingestMode)
}

// resume believes of the bytes on disk only what hashes to what it should.
func (in *Ingest) resume() error {
	if len(in.pieces) == 1 {
		// No journal: either all of it is there, which its Digest shows, or it is
		// brought again.
		h := fetcher.NewHasher(in.file.Digest.Algorithm(), in.file.Size)
		err := copyPiece(h, in.data, fetcher.PieceAt(0, in.file.Size))
		if err != nil {
			return err
		}
		if got, err := h.Digest(); err == nil && got == in.file.Digest {
			in.pieces[0].state = held
		}
		return nil
	}
	if len(in.pieces) == 0 {
		return nil
	}
	sums, err := in.log.load(len(in.pieces))
	if err != nil {
		return err
	}
	for i, want := range sums {
		got, err := pieceSum(in.data, fetcher.PieceAt(i, in.file.Size))
		if err == nil && got == want {
			in.pieces[i] = piece{held, got}
		}
	}
	return nil
}

var _ fetcher.Ingest = (*Ingest)(nil)
