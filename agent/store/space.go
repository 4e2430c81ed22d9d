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
// when an Ingest, a copy, a Manifest or a large View begins, in bytes.
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

// makeRoom has take take size bytes, if there is room for them beyond the reserve.
func (s *Store) makeRoom(size int64, take func() error) error {
	s.allocating.Lock()
	defer s.allocating.Unlock()
	r, err := s.room()
	if err != nil {
		return err
	}
	full := fmt.Errorf("%w: %d bytes are needed beyond the %d that downloads leave free, and %d are free in %s: make room on that disk, or lower the reserve",
		ErrNoSpace, size, r.reserve, r.free, s.dir)
	if r.size > 0 && size > r.free-r.reserve {
		return full
	}
	switch err := take(); {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w (%w)", full, err)
	default:
		return fmt.Errorf("allocate %d bytes: %w", size, err)
	}
}

// allocate gives in's data its size in bytes and, where the file system can, data and
// journal their blocks, so that a full disk shows before the first byte.
func (in *Ingest) allocate() error {
	size := in.file.Size
	var journal int64
	if in.place.dir != "" {
		journal = int64(fetcher.Pieces(size)) * journalRecord
	}
	return in.s.makeRoom(size+journal, func() error {
		if journal > 0 {
			if err := preallocate(in.log.f, unix.FALLOC_FL_KEEP_SIZE, journal); err != nil {
				return err
			}
		}
		if err := preallocate(in.data, 0, size); err != nil {
			return err
		}
		return in.data.Truncate(size)
	})
}

const (
	// smallView is how many bytes a View may take of the reserve.
	smallView = 1 << 20
	// directoryBytes is what a directory takes; entryBytes what an entry does beside its
	// path, in its directory and in view.json.
	directoryBytes, entryBytes = 4096, 256
)

// makeRoomForView refuses a View of so many directories and names that they would take
// what downloads leave free. What is usual does not: it can be had on a full disk.
func (s *Store) makeRoomForView(list []entry) error {
	var size int64
	for _, e := range list {
		size += entryBytes + 2*int64(len(e.path)) + int64(len(e.content))
		if e.dir {
			size += directoryBytes
		}
	}
	if size <= smallView {
		return nil
	}
	return s.makeRoom(size, func() error { return nil })
}

// preallocate is fallocate(2), and nothing where the file system knows none.
func preallocate(f *os.File, mode uint32, size int64) error {
	if size == 0 {
		return nil // or EINVAL
	}
	err := unix.Fallocate(int(f.Fd()), mode, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}
