package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
		if err := shareControllers(h.path); err != nil {
			return err
		}
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
	if err := inheritCPUs(dir); err != nil {
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
		// In version 2 only a cgroup without processes of its own shares its controllers.
		if err := enterCgroup(filepath.Join(h.path, "init"), os.Getpid()); err != nil {
			return err
		}
		if err := shareControllers(h.path); err != nil {
			return err
		}
	}
	return nil
}

// inheritCPUs gives a new cgroup the CPUs and memory nodes of its parent, which in
// version 1 it does not have by itself.
func inheritCPUs(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || strings.TrimSpace(string(own)) != "" {
			continue // no cpuset here, or it has some
		}
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // version 2: what is not set is the parent's
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// wanted are the controllers that kubelet and runc use.
var wanted = []string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}

// shareControllers lets the children of a cgroup of version 2 have its controllers.
func shareControllers(dir string) error {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // version 1
	}
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		if !slices.Contains(wanted, c) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("share the controller %s of %s: %w (in a container, its own cgroup must have no processes)", c, dir, err)
		}
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
