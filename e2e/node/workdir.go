package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const prefix = "ballast-e2e-"

// workDir is a run's directory. Its base name is also that of the cgroup that the
// run's containers are in. It is locked while the run lives.
type workDir struct {
	path string
	lock *os.File
}

func newWorkDir(parent string) (*workDir, error) {
	path, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"logs", "disk"} {
		if err := os.Mkdir(filepath.Join(path, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(path, 0o755); err != nil { // pods' users pass through
		return nil, err
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	return &workDir{path, lock}, nil
}

// lockDir takes the lock of a work directory, which goes with the process.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// remove takes away all that a run leaves on this machine. It may be called again.
func (w *workDir) remove() error {
	err := removeCgroups(filepath.Base(w.path))
	err = errors.Join(err, os.RemoveAll(w.path))
	w.lock.Close()
	return err
}

// removeStale removes what runs left that were killed before they could.
func removeStale(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, prefix+"*"))
	for _, path := range dirs {
		lock, err := lockDir(path)
		if err != nil {
			continue // it lives
		}
		if err := (&workDir{path, lock}).remove(); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: left by an earlier run: %v\n", err)
		}
	}
}
