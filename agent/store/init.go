package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// init makes the layout, or checks it, and takes the lock. Nothing is touched in a
// directory whose version is unknown.
func (s *Store) init() error {
	if err := s.checkVersion(); err != nil {
		return err
	}
	if err := s.disk.MkdirAll(s.dir, sharedDir); err != nil {
		return err
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if err := s.initLayout(); err != nil {
		s.lock.Close()
		return err
	}
	return nil
}

func (s *Store) initLayout() error {
	// Once more, now that nobody else can be writing it.
	if err := s.checkVersion(); err != nil {
		return err
	}
	if _, err := os.Lstat(s.path(versionFile)); errors.Is(err, fs.ErrNotExist) {
		if err := s.disk.WriteFile(s.path(versionFile), []byte(version+"\n"), 0o644); err != nil {
			return err
		}
	}
	for _, name := range privateDirs {
		if err := s.disk.MkdirAll(s.path(name), privateDir); err != nil {
			return err
		}
	}
	return s.disk.MkdirAll(s.path(EmptyDir), sharedDir)
}

// checkVersion refuses an unknown version, and a directory with Blobs and none.
func (s *Store) checkVersion() error {
	text, err := os.ReadFile(s.path(versionFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(s.path(blobsDir)); err == nil {
			return fmt.Errorf("there is a %s directory and no %s file: not a cache that Ballast made", blobsDir, versionFile)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if got := strings.TrimSuffix(string(text), "\n"); got != version {
		return fmt.Errorf("layout version %q is not known to this Ballast, which knows %q: use the Ballast that made it, or another directory", got, version)
	}
	return nil
}

func (s *Store) takeLock() error {
	f, err := os.OpenFile(s.path(lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, privateFile)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%w (its file %s is locked)", ErrLocked, f.Name())
		}
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	s.lock = f
	return nil
}
