package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroups is where the hierarchies are mounted: one for each set of controllers
// (version 1), one for all (version 2), or both.
const cgroups = "/sys/fs/cgroup"

// hierarchy is a mounted cgroup hierarchy.
type hierarchy struct {
	path    string // where it is mounted
	kind    string // cgroup or cgroup2
	options string // mount(8)'s, with the names of its controllers
}

// hierarchies lists those that this process sees (proc(5), mountinfo).
func hierarchies() ([]hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []hierarchy
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		what, where := strings.Fields(after), strings.Fields(before)
		if len(what) < 3 || what[0] != "cgroup" && what[0] != "cgroup2" {
			continue
		}
		all = append(all, hierarchy{path: where[4], kind: what[0], options: strings.TrimPrefix(what[2], "rw,")})
	}
	if all == nil {
		return nil, errors.New("no cgroup hierarchy is mounted on " + cgroups)
	}
	return all, nil
}

// makeCgroups makes a cgroup called name in every hierarchy, with every controller
// that can be had, and puts the process pid into it.
func makeCgroups(name string, pid int) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := enterCgroup(filepath.Join(h.path, name), pid); err != nil {
			return err
		}
	}
	return nil
}

// enterCgroup makes a cgroup and puts the process pid into it.
func enterCgroup(dir string, pid int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := inherit(dir); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
}

// ownCgroups makes the cgroups that this process is in the roots of all that it and
// its children see, as containers and kubelet count from the root. It holds for the
// calling thread and its children.
func ownCgroups() error {
	if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroups: %w", err)
	}
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := syscall.Unmount(h.path, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", h.path, err)
		}
		if err := syscall.Mount(h.kind, h.path, h.kind, syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, h.options); err != nil {
			return fmt.Errorf("mount %s: %w", h.path, err)
		}
		// In version 2 only a cgroup without processes of its own gives controllers on.
		if err := enterCgroup(filepath.Join(h.path, "init"), os.Getpid()); err != nil {
			return err
		}
	}
	return nil
}

// inherit gives a new cgroup what it does not have by itself: CPUs and memory nodes
// in version 1's cpuset, and in version 2 every controller of its parent's.
func inherit(dir string) error {
	parent := filepath.Dir(dir)
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			continue // no cpuset here
		}
		if own, err := os.ReadFile(filepath.Join(dir, file)); err == nil && strings.TrimSpace(string(own)) != "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
			return err
		}
	}
	controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // version 1
	}
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		// Some cannot be given on: kubelet says what it misses.
		_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
	return nil
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
