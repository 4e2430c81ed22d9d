package mount_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/csi/mount/mounttest"
)

// Who owns the cache directory may be hostile (a broken-into agent), and root mounts
// what is in it.

// swapper renames pairs of names in a loop, until the test ends.
func swapper(t *testing.T, pairs ...[2]string) {
	t.Helper()
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, p := range pairs {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = unix.Renameat2(unix.AT_FDCWD, p[0], unix.AT_FDCWD, p[1], unix.RENAME_EXCHANGE)
			}
		})
	}
	t.Cleanup(func() { close(stop); running.Wait() })
}

func TestLayersSwappedBetweenCheckAndUseNeverLeaveTheCache(t *testing.T) {
	for name, swapped := range map[string]string{
		"the directory": view, "its parent": "views/v1", "the first of its path": "views", "the empty one": "empty",
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			// What a link leads to looks just like the cache, but for what is in it.
			outside := t.TempDir()
			must(t, os.MkdirAll(filepath.Join(outside, view), 0o755))
			must(t, os.MkdirAll(filepath.Join(outside, "empty"), 0o755))
			must(t, os.WriteFile(filepath.Join(outside, view, "outside"), nil, 0o444))
			link := filepath.Join(c.dir, "link")
			must(t, os.Symlink(filepath.Join(outside, swapped), link))
			before := mountTable(t)
			swapper(t, [2]string{filepath.Join(c.dir, swapped), link})

			// Enough of both, or nothing was swapped in time.
			mounted, refused := 0, 0
			for start := time.Now(); (mounted+refused < 1000 || mounted < 5 || refused < 5) && time.Since(start) < 20*time.Second; {
				spec := c.spec()
				spec.Bind = (mounted+refused)%2 == 1
				if c.Mount(spec) != nil {
					refused++
					continue
				}
				mounted++
				if _, err := os.Lstat(filepath.Join(c.target, "config.json")); err != nil {
					t.Errorf("bind %v: what is mounted is not the View: %v", spec.Bind, err)
				}
				if _, err := os.Lstat(filepath.Join(c.target, "outside")); err == nil {
					t.Errorf("bind %v: what is mounted is outside the cache", spec.Bind)
				}
				must(t, c.Unmount(c.target))
			}
			if t.Logf("%d were mounted, %d refused", mounted, refused); mounted < 5 || refused < 5 {
				t.Error("too few of one kind: this says little")
			}
			if after := mountTable(t); after != before {
				t.Errorf("the mount table is another:\n%s\nit was\n%s", after, before)
			}
		})
	}
}

// mountTable is all that is mounted, wherever it is, and how.
func mountTable(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return string(text)
}

func TestAMountBeneathTheCacheIsNotMountedWheneverItComes(t *testing.T) {
	for name, source := range map[string]string{"another file system": "", "a bind of a directory": "/etc"} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			at := filepath.Join(c.dir, view)
			cover := func() error {
				if source == "" {
					return unix.Mount("tmpfs", at, "tmpfs", 0, "")
				}
				return unix.Mount(source, at, "", unix.MS_BIND|unix.MS_REC, "")
			}
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for {
					select {
					case <-stop:
						return
					default:
					}
					if cover() == nil {
						_ = unix.Unmount(at, unix.MNT_DETACH)
					}
				}
			}()
			defer func() { close(stop); <-done }()
			mounted := 0
			for i := range 300 {
				spec := c.spec()
				spec.Bind = i%2 == 1
				if c.Mount(spec) != nil {
					continue
				}
				mounted++
				if _, err := os.Lstat(filepath.Join(c.target, "config.json")); err != nil {
					t.Errorf("bind %v: what is mounted is not the View: %v", spec.Bind, err)
				}
				must(t, c.Unmount(c.target))
			}
			t.Logf("%d were mounted", mounted)
		})
	}
}

func TestALayersNameIsNeverAnOption(t *testing.T) {
	for _, name := range []string{"a:b", "a,upperdir=b", `a\:b`, "a b", "a\nb", "lowerdir=x", "%s", "ünï", "a\xff"} {
		c := newCache(t)
		odd := "views/" + name
		must(t, os.Rename(filepath.Join(c.dir, "views/v1"), filepath.Join(c.dir, odd)))
		must(t, os.Rename(filepath.Join(c.dir, "empty"), filepath.Join(c.dir, name)))
		spec := c.spec()
		spec.View, spec.Empty = odd+"/root", name
		must(t, c.Mount(spec))
		if _, err := os.Lstat(filepath.Join(c.target, "config.json")); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if worked := write(c.target); worked != nil {
			t.Errorf("%q: these worked: %v", name, worked)
		}
		must(t, c.Unmount(c.target))
	}
}

func TestAnEmptyDirectoryThatIsNotIsRefused(t *testing.T) {
	c := newCache(t)
	spec := c.spec()
	for _, other := range []string{"views", "views/v1", view, view + "/sub"} { // another volume's files among them
		spec.Empty = other
		spec.View = "views"
		if err := c.Mount(spec); err == nil || !strings.Contains(err.Error(), "not empty") {
			t.Errorf("Empty %q: %v", other, err)
			_ = c.Unmount(c.target)
		}
	}
}

// Extended attributes by which overlayfs finds its layers' parts: a file or directory
// that says so shows another one, or hides one.
func TestNoAttributeInALayerSteersTheOverlay(t *testing.T) {
	for _, space := range []string{"user", "trusted"} {
		t.Run(space, func(t *testing.T) {
			c := newCache(t)
			// tmpfs has trusted attributes, and user ones since Linux 6.6.
			must(t, unix.Mount("tmpfs", c.dir, "tmpfs", 0, ""))
			t.Cleanup(func() { _ = unix.Unmount(c.dir, unix.MNT_DETACH) })
			at := func(p string) string { return filepath.Join(c.dir, p) }
			for _, d := range []string{view + "/dir", view + "/opaque", "empty"} {
				must(t, os.MkdirAll(at(d), 0o755))
			}
			must(t, os.WriteFile(at(view+"/file"), []byte("its own"), 0o444))
			for _, a := range []struct{ path, name, value string }{
				{"/dir", "redirect", "/secret"}, {"/file", "redirect", "/secret/file"}, {"/file", "metacopy", ""}, {"/opaque", "opaque", "y"},
			} {
				if err := unix.Setxattr(at(view+a.path), space+".overlay."+a.name, []byte(a.value), 0); err != nil {
					t.Skipf("%s attributes cannot be set here: %v", space, err)
				}
			}
			must(t, c.Mount(c.spec()))
			defer func() { must(t, c.Unmount(c.target)) }()
			// The directory was empty when it was looked at.
			must(t, os.MkdirAll(at("empty/secret"), 0o755))
			must(t, os.WriteFile(at("empty/secret/file"), []byte("another's"), 0o444))
			if names, err := os.ReadDir(filepath.Join(c.target, "dir")); len(names) > 0 {
				t.Errorf("a redirect was followed: %v, %v", names, err)
			}
			if got, _ := os.ReadFile(filepath.Join(c.target, "file")); string(got) == "another's" {
				t.Error("a metacopy was followed")
			}
		})
	}
}

func TestASetUserIDFileInAViewGivesNothing(t *testing.T) {
	if mounttest.UserNamespace() {
		t.Skip("needs root, to make a file and a process of other users")
	}
	for _, bind := range []bool{false, true} {
		c := newCache(t)
		id, err := os.ReadFile("/usr/bin/id")
		must(t, err)
		path := filepath.Join(c.dir, view, "id")
		must(t, os.WriteFile(path, id, 0o755))
		must(t, os.Chmod(path, 0o755|os.ModeSetuid|os.ModeSetgid))
		spec := c.spec()
		spec.Bind = bind
		must(t, c.Mount(spec))
		if got := runAs(t, path); got != "0" {
			t.Fatalf("the file itself, not through the mount, runs as %s: this test would see nothing", got)
		}
		if got := runAs(t, filepath.Join(c.target, "id")); got != "1000" {
			t.Errorf("bind %v: a set-uid file of a View runs as %s", bind, got)
		}
		must(t, c.Unmount(c.target))
	}
}

// runAs runs the program as user 1000, who need not be able to walk there, and returns
// what it prints.
func runAs(t *testing.T, path string) string {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	must(t, err)
	defer f.Close()
	cmd := exec.Command("/proc/self/fd/3", "-u")
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

func TestADeviceInAViewCannotBeOpened(t *testing.T) {
	for _, bind := range []bool{false, true} {
		c := newCache(t)
		if err := unix.Mknod(filepath.Join(c.dir, view, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			t.Skipf("no device can be made here: %v", err)
		}
		spec := c.spec()
		spec.Bind = bind
		must(t, c.Mount(spec))
		if f, err := os.Open(filepath.Join(c.target, "null")); err == nil {
			f.Close()
			t.Errorf("bind %v: a device of a View was opened", bind)
		}
		must(t, c.Unmount(c.target))
	}
}

// Locks, leases and watches that a pod takes on its overlay's files are the overlay's:
// neither the agent nor another pod meets them. (Those on a bind, for a pod with a user
// namespace, are the cache's own, but it can take only locks and watches there, and
// nothing in Ballast locks a Blob or watches a file.)
func TestAPodsLocksLeasesAndWatchesHoldUpNobody(t *testing.T) {
	c := newCache(t)
	must(t, c.Mount(c.spec()))
	defer func() { must(t, c.Unmount(c.target)) }()
	pods, err := os.Open(filepath.Join(c.target, "config.json"))
	must(t, err)
	defer pods.Close()
	must(t, unix.Flock(int(pods.Fd()), unix.LOCK_EX))
	if _, err := unix.FcntlInt(pods.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Logf("a lease is refused: %v", err)
	}
	// Whoever opens what it marks waits for its leave, which never comes.
	watch, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
	if err == nil {
		defer unix.Close(watch)
		must(t, unix.FanotifyMark(watch, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN_PERM|unix.FAN_ACCESS_PERM, unix.AT_FDCWD, c.target))
	} else {
		t.Logf("fanotify is refused: %v", err)
	}

	other := c.spec() // another pod's
	other.Target = filepath.Join(t.TempDir(), "mount")
	must(t, c.Mount(other))
	defer func() { must(t, c.Unmount(other.Target)) }()
	free := make(chan error, 1)
	go func() {
		free <- errors.Join(
			readLocked(filepath.Join(c.dir, view, "config.json"), os.O_RDWR), // as the agent
			readLocked(filepath.Join(other.Target, "config.json"), os.O_RDONLY))
	}()
	select {
	case err := <-free:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Error("a pod holds up who opens the cache's file") // closing watch lets them go
	}
}

// readLocked opens, locks and reads a file. Where a lease is in the way it does not wait.
func readLocked(path string, flags int) error {
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 2))
	return errors.Join(err, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}
