package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// target is where a mount goes, held by descriptors.
type target struct {
	parent, fd int
	base       string
	made       bool // openTarget made the directory
}

// openTarget opens the directory at path, and makes its last component if need be.
// The parent must exist: kubelet made it.
func openTarget(path string) (*target, error) {
	t := &target{parent: -1, fd: -1}
	if err := t.open(path); err != nil {
		t.close(true)
		return nil, fmt.Errorf("target %s: %w", path, err)
	}
	return t, nil
}

func (t *target) open(path string) error {
	dir, base, err := splitTarget(path)
	if err != nil {
		return err
	}
	t.base = base
	t.parent, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open its parent directory: %w", err)
	}
	err = unix.Mkdirat(t.parent, base, 0o750)
	if t.made = err == nil; !t.made && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("mkdir: %w", err)
	}
	t.fd, err = unix.Openat(t.parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("must be a directory, not a link: %w", err)
	}
	return checkTarget(t.fd)
}

// close lets go of the directory, and removes it if openTarget made it and undo is
// set.
func (t *target) close(undo bool) {
	if undo && t.made {
		_ = unix.Unlinkat(t.parent, t.base, unix.AT_REMOVEDIR) // best effort: an empty directory does no harm
	}
	for _, fd := range []int{t.fd, t.parent} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// checkTarget refuses a mount, which would be hidden, and a directory with entries,
// which could never be removed again.
func checkTarget(fd int) error {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return fmt.Errorf("statx: %w", err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return ErrMounted
	}
	return checkEmpty(fd)
}

// checkEmpty returns an error unless the directory, opened with O_PATH, has no entries.
func checkEmpty(dir int) error {
	list, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	f := os.NewFile(uintptr(list), ".")
	defer f.Close()
	switch names, err := f.Readdirnames(1); {
	case len(names) > 0:
		return errors.New("the directory is not empty")
	case err != io.EOF:
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

// splitTarget checks that target is absolute and clean, and parts its last component.
func splitTarget(target string) (dir, base string, err error) {
	if !filepath.IsAbs(target) || strings.ContainsRune(target, 0) || filepath.Clean(target) != target || target == "/" {
		return "", "", fmt.Errorf("%q must be a clean absolute path", target)
	}
	return filepath.Dir(target), filepath.Base(target), nil
}
