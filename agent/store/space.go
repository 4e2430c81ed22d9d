package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// explain makes "disk full" an ErrNoSpace that says how much is left.
func (s *Store) explain(err error) error {
	if err == nil || errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	free, _ := s.free() // the message is worth less without it, not wrong
	return fmt.Errorf("%w: %d bytes are free in %s: %w", ErrNoSpace, free, s.dir, err)
}

// free returns how many bytes the file system has for us.
func (s *Store) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", s.dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// allocate gives in's data its size in bytes and, where the file system can, data and
// journal their blocks, so that a full disk shows before the first byte.
func (in *Ingest) allocate() error {
	size := in.file.Size
	free, err := in.s.free()
	if err != nil {
		return err
	}
	if free < size {
		return fmt.Errorf("%w: %d bytes needed, %d free in %s", ErrNoSpace, size, free, in.s.dir)
	}
	if in.place.dir != "" {
		err = reserve(in.log.f, unix.FALLOC_FL_KEEP_SIZE, int64(len(in.pieces))*journalRecord)
	}
	if err == nil && size > 0 {
		err = reserve(in.data, 0, size)
	}
	switch {
	case err == nil:
		return in.data.Truncate(size)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w: %d bytes needed, %d free in %s: %w", ErrNoSpace, size, free, in.s.dir, err)
	default:
		return fmt.Errorf("allocate %d bytes: %w", size, err)
	}
}

// reserve is fallocate(2), and nothing where the file system knows none.
func reserve(f *os.File, mode uint32, size int64) error {
	err := unix.Fallocate(int(f.Fd()), mode, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}
