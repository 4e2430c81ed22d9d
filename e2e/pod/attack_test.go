package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/ballast-csi/ballast/csi/mount"
	"github.com/ballast-csi/ballast/csi/mount/mounttest"
	"github.com/ballast-csi/ballast/e2e/pod/report"
	"golang.org/x/sys/unix"
)

// volume is a cache with one View, and where the View is mounted.
type volume struct{ cache, view, target string }

func newVolume(t *testing.T) volume {
	t.Helper()
	if mounttest.UserNamespace() {
		t.Skip("needs root: in a user namespace the kernel refuses some attempts for another reason than the mount")
	}
	cache := t.TempDir()
	// A remount of a bind reaches the whole file system: it shall be the test's own.
	if err := unix.Mount("tmpfs", cache, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(cache, unix.MNT_DETACH) })
	v := volume{cache, filepath.Join(cache, "view"), filepath.Join(t.TempDir(), "mount")}
	for _, dir := range []string{v.view, filepath.Join(cache, "empty")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tree(t, v.view)
	return v
}

// mount mounts the View as Ballast does.
func (v volume) mount(t *testing.T, bind bool) {
	t.Helper()
	m, err := mount.New(mount.Config{CacheDir: v.cache})
	if err != nil {
		t.Fatal(err)
	}
	spec := mount.Spec{View: "view", Empty: "empty", Source: mount.Source("v", v.target), Target: v.target, Bind: bind}
	if err := m.Mount(spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(v.target); err != nil {
			t.Error(err)
		}
	})
}

// attacked runs the attack in a mount namespace of its own, as a container has one.
func (v volume) attacked(t *testing.T) map[string]report.Attempt {
	t.Helper()
	scratch := t.TempDir()
	cmd := pod(t, "attack", v.target, scratch)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]report.Attempt{}
	for line := range bytes.Lines(out) {
		var a report.Attempt
		if err := json.Unmarshal(line, &a); err != nil {
			t.Fatal(err)
		}
		all[a.Attempt] = a
		switch {
		case a.Changed:
			t.Logf("%s: changed", a.Attempt)
		case a.Error == "":
			t.Logf("%s: let through, nothing changed", a.Attempt)
		default:
			t.Logf("%s: %s", a.Attempt, a.Error)
		}
	}
	if want := 3*len(attempts()) + 1; len(all) != want {
		t.Errorf("%d attempts were told; want %d", len(all), want)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left in the scratch directory: %v, %v", left, err)
	}
	return all
}

// content is every entry of dir, by path.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		stat, err := d.Info()
		if err != nil {
			return err
		}
		all[path] = stat.Mode().String()
		if d.Type().IsRegular() {
			text, err := os.ReadFile(path)
			all[path] += string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func changed(all map[string]report.Attempt) (names []string) {
	for name, a := range all {
		if a.Changed {
			names = append(names, name)
		}
	}
	return names
}

func TestAttackDoesNotChangeWhatBallastMounts(t *testing.T) {
	v := newVolume(t)
	v.mount(t, false)
	before := content(t, v.cache)
	all := v.attacked(t)
	if names := changed(all); len(names) > 0 {
		t.Errorf("changed by %q", names)
	}
	if !maps.Equal(before, content(t, v.cache)) {
		t.Error("the cache is another")
	}
	// The flag of the mount goes; the superblock's holds. Were it refused, the retries
	// would have met a mount that is read-only twice.
	if a := all["remount of the mount"]; a.Error != "" {
		t.Errorf("%+v", a)
	}
}

func TestAttackGetsThroughAReadOnlyBind(t *testing.T) {
	v := newVolume(t)
	v.mount(t, true)
	before := content(t, v.cache)
	all := v.attacked(t)
	if a := all["open O_WRONLY"]; a.Error == "" || a.Changed {
		t.Errorf("before the remount: %+v", a)
	}
	if a := all["remount of the mount"]; !a.Changed {
		t.Errorf("%+v", a)
	}
	if a := all["in a mount namespace: open O_WRONLY"]; !a.Changed {
		t.Errorf("after the remount: %+v", a)
	}
	if maps.Equal(before, content(t, v.cache)) {
		t.Error("the cache is the same")
	}
}

// Every attempt must work where it may, or its refusal says nothing.
func TestAttackChangesAWritableVolumeInEveryWay(t *testing.T) {
	v := newVolume(t)
	if err := os.Mkdir(v.target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(v.view, v.target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(v.target, unix.MNT_DETACH) })
	all := v.attacked(t)
	for _, tried := range attempts() {
		if why := notHere[tried.name]; why != "" {
			t.Logf("%s says nothing: %s", tried.name, why)
			continue
		}
		vain := slices.ContainsFunc(vainAttempts(), func(v attempt) bool { return v.name == tried.name })
		if a := all[tried.name]; a.Changed == vain {
			t.Errorf("%+v", a)
		}
	}
}

// notHere are the attempts that no tmpfs lets through.
var notHere = map[string]string{
	"open_by_handle_at of the disk's root": "it takes an ext4",
	"FS_IOC_ENABLE_VERITY":                 "tmpfs has no fs-verity",
	"FICLONERANGE":                         "tmpfs has no reflinks",
}
