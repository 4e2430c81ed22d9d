package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const prefix = "ballast-e2e-"

// cgroups is where the hierarchies are mounted: one for each controller, or one.
const cgroups = "/sys/fs/cgroup"

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

// removeCgroups removes the cgroups called name, and those in them, in every
// hierarchy. What was in them is dead, but the kernel may still be counting.
func removeCgroups(name string) error {
	var err error
	for range 50 {
		if err = tryRemoveCgroups(name); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func tryRemoveCgroups(name string) error {
	roots, err := cgroupDirs(name)
	if err != nil {
		return err
	}
	for _, root := range roots {
		var all []string
		if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return err
		}); err != nil {
			return err
		}
		for i := len(all) - 1; i >= 0; i-- { // children before their parents
			if err := os.Remove(all[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// cgroupDirs finds the cgroups called name.
func cgroupDirs(name string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(cgroups, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // another's, just gone
		case err != nil:
			return err
		case d.IsDir() && d.Name() == name:
			found = append(found, path)
			return fs.SkipDir
		}
		return nil
	})
	return found, err
}
