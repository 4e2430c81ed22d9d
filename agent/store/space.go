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

// allocate gives f its size in bytes and, where the file system can, its blocks, so
// that a full disk shows before the first byte.
func (s *Store) allocate(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	free, err := s.free()
	if err != nil {
		return err
	}
	if free < size {
		return fmt.Errorf("%w: %d bytes needed, %d free in %s", ErrNoSpace, size, free, s.dir)
	}
	switch err := unix.Fallocate(int(f.Fd()), 0, 0, size); {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS):
		return f.Truncate(size)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w: %d bytes needed, %d free in %s: %w", ErrNoSpace, size, free, s.dir, err)
	default:
		return fmt.Errorf("allocate %d bytes: %w", size, err)
	}
}
