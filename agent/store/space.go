package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// explain makes "disk full" an ErrNoSpace that says how much is left.
func (s *Store) explain(err error) error {
	if err == nil || errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	r, _ := s.room() // the message is worth less without it, not wrong
	return fmt.Errorf("%w: %d bytes are free in %s, make room on that disk: %w", ErrNoSpace, r.free, s.dir, err)
}

// room is how much the cache's file system can hold of ours, has left for us, and must be left
// when an Ingest begins, in bytes.
type room struct{ size, free, reserve int64 }

func (s *Store) room() (room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return room{}, fmt.Errorf("statfs %s: %w", s.dir, err)
	}
	kept := max(0, int64(st.Bfree)-int64(st.Bavail)) // for root: never ours
	r := room{(int64(st.Blocks) - kept) * st.Frsize, int64(st.Bavail) * st.Frsize, s.reserve}
	switch {
	case r.reserve == 0:
		r.reserve = int64(float64(r.size) * s.reservePercent / 100)
	case r.reserve < 0:
		r.reserve = 0
	}
	return r, nil
}

// fits refuses, with ErrTooLarge, a file of size bytes that there can never be room for.
func (s *Store) fits(size int64) error {
	r, err := s.room()
	if err == nil && r.size > 0 && size > r.size-r.reserve { // some file systems do not tell
		err = fmt.Errorf("%w: it has %d bytes, the disk of %s has %d, of which %d are kept free: give the cache a larger disk, or lower the reserve",
			ErrTooLarge, size, s.dir, r.size, r.reserve)
	}
	return err
}

// allocate gives in's data its size in bytes and, where the file system can, data and
// journal their blocks, so that a full disk shows before the first byte. It leaves the
// reserve alone.
func (in *Ingest) allocate() error {
	in.s.allocating.Lock()
	defer in.s.allocating.Unlock()
	size := in.file.Size
	var journal int64
	if in.place.dir != "" {
		journal = int64(fetcher.Pieces(size)) * journalRecord
	}
	r, err := in.s.room()
	if err != nil {
		return err
	}
	full := fmt.Errorf("%w: %d bytes are needed beyond the %d that downloads leave free, and %d are free in %s: make room on that disk, or lower the reserve",
		ErrNoSpace, size+journal, r.reserve, r.free, in.s.dir)
	if r.size > 0 && size+journal > r.free-r.reserve {
		return full
	}
	if journal > 0 {
		err = preallocate(in.log.f, unix.FALLOC_FL_KEEP_SIZE, journal)
	}
	if err == nil && size > 0 {
		err = preallocate(in.data, 0, size)
	}
	switch {
	case err == nil:
		return in.data.Truncate(size)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w (%w)", full, err)
	default:
		return fmt.Errorf("allocate %d bytes: %w", size, err)
	}
}

// preallocate is fallocate(2), and nothing where the file system knows none.
func preallocate(f *os.File, mode uint32, size int64) error {
	err := unix.Fallocate(int(f.Fd()), mode, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}
