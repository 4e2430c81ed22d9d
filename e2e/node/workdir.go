package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	lock, err := lockDir(path, os.O_CREATE|os.O_EXCL)
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
	return &workDir{path, lock}, nil
}

// lockDir takes the lock of a work directory, which goes with the process. Others may
// make directories of such a name, with links in them.
func lockDir(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, "lock"), flags|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// leave removes the run's directory and looks for anything else of the run's. What is
// there since before and is not known to be the run's may be anyone's: it is told.
func (w *workDir) leave(before state) error {
	if err := w.remove(); err != nil {
		return err
	}
	left, others, err := before.compare(w.path)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		fmt.Printf("e2e: since the run began there is, by whomever:\n  %s\n", strings.Join(others, "\n  "))
	}
	if len(left) > 0 {
		return fmt.Errorf("the run left behind:\n  %s", strings.Join(left, "\n  "))
	}
	return nil
}

// remove takes away all that a run leaves on this machine.
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
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) {
			continue // another's
		}
		lock, err := lockDir(path, 0)
		if err != nil {
			continue // it lives, or is no run's
		}
		if err := (&workDir{path, lock}).remove(); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: left by an earlier run: %v\n", err)
		}
	}
}
