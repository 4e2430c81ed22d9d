package mount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/csi/mount"
	"github.com/ballast-csi/ballast/csi/mount/mounttest"
)

const view = "views/v1/root"

// cache is a cache directory with one View, and a place for targets. Both are in one
// file system of their own, so that nothing here depends on the machine's.
type cache struct {
	*mount.Mounter
	dir, target string
}

func newCache(t *testing.T) *cache {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	for _, d := range []string{"empty", view + "/sub"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, view, "config.json"), []byte("{}"), 0o444))
	must(t, os.WriteFile(filepath.Join(dir, view, "sub/weights"), []byte("weights"), 0o444))
	pod := filepath.Join(t.TempDir(), "pod")
	must(t, os.Mkdir(pod, 0o750))
	m, err := mount.New(mount.Config{CacheDir: dir})
	must(t, err)
	c := &cache{m, dir, filepath.Join(pod, "mount")}
	t.Cleanup(func() { _ = unix.Unmount(c.target, unix.MNT_DETACH) })
	return c
}

func (c *cache) spec() mount.Spec {
	return mount.Spec{View: view, Empty: "empty", Source: mount.Source("vol", c.target), Target: c.target}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOverlayShowsTheViewAndMountinfoNamesTheVolume(t *testing.T) {
	c := newCache(t)
	must(t, c.Mount(c.spec()))

	got, err := os.ReadFile(filepath.Join(c.target, "sub/weights"))
	must(t, err)
	if string(got) != "weights" {
		t.Errorf("read %q through the mount", got)
	}
	info, found, err := c.Lookup(c.target)
	must(t, err)
	if !found || info.FSType != "overlay" || info.Source != mount.Source("vol", c.target) || !info.ReadOnly || !info.SuperReadOnly {
		t.Errorf("Lookup = %+v, %v", info, found)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(c.target, &st))
	if want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV); st.Flags&want != want {
		t.Errorf("mount flags %#x, want all of %#x", st.Flags, want)
	}

	must(t, c.Unmount(c.target))
	if _, found, err := c.Lookup(c.target); found || err != nil {
		t.Errorf("after Unmount: Lookup = %v, %v", found, err)
	}
	if _, err := os.Lstat(c.target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Unmount the target is still there: %v", err)
	}
}

// write tries each way of changing what is below dir, and returns those that worked.
func write(dir string) (worked []string) {
	try := func(name string, err error) {
		if !errors.Is(err, unix.EROFS) {
			worked = append(worked, name)
		}
	}
	file := filepath.Join(dir, "config.json")
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err == nil {
		f.Close()
	}
	try("open", err)
	try("create", os.WriteFile(filepath.Join(dir, "new"), nil, 0o644))
	try("chmod", os.Chmod(file, 0o777))
	try("rename", os.Rename(file, filepath.Join(dir, "renamed")))
	try("remove", os.Remove(filepath.Join(dir, "renamed")))
	return worked
}

func TestNoRemountMakesTheOverlayWritable(t *testing.T) {
	c := newCache(t)
	must(t, c.Mount(c.spec()))
	for name, flags := range map[string]uintptr{
		"superblock": unix.MS_REMOUNT,
		"this mount": unix.MS_REMOUNT | unix.MS_BIND, // what runc 1.2 does when it is asked for rw
	} {
		err := unix.Mount("", c.target, "", flags, "")
		if flags == unix.MS_REMOUNT && err == nil {
			t.Errorf("remount of the %s as rw was not refused", name)
		}
		if worked := write(c.target); worked != nil {
			t.Errorf("after a remount of the %s as rw these worked: %v", name, worked)
		}
	}
	got, err := os.ReadFile(filepath.Join(c.dir, view, "config.json"))
	must(t, err)
	if string(got) != "{}" {
		t.Errorf("the cache now holds %q", got)
	}
}

// Why the overlay is there: a read-only bind is a flag that root in the mount's
// namespace clears.
func TestBindIsReadOnlyUntilSomeoneWhoMayRemountsIt(t *testing.T) {
	c := newCache(t)
	spec := c.spec()
	spec.Bind, spec.Empty = true, ""
	must(t, c.Mount(spec))
	if worked := write(c.target); worked != nil {
		t.Fatalf("through a read-only bind these worked: %v", worked)
	}
	info, found, err := c.Lookup(c.target)
	must(t, err)
	if !found || info.View != view || !info.ReadOnly || info.SuperReadOnly {
		t.Errorf("Lookup = %+v, %v", info, found)
	}
	must(t, unix.Mount("", c.target, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	if worked := write(c.target); worked == nil {
		t.Error("a bind remounted rw is still read-only: then the overlay is not needed")
	}
	must(t, c.Unmount(c.target))
}

func TestLookupDoesNotTakeAnotherBindForAView(t *testing.T) {
	c := newCache(t)
	must(t, os.Mkdir(c.target, 0o750))
	for _, source := range []string{c.dir, t.TempDir(), filepath.Dir(c.dir)} {
		must(t, unix.Mount(source, c.target, "", unix.MS_BIND, ""))
		info, found, err := c.Lookup(c.target)
		must(t, err)
		if !found || info.View != "" {
			t.Errorf("bind of %s: Lookup = %+v, %v", source, info, found)
		}
		must(t, unix.Unmount(c.target, 0))
	}
}

func TestLookupTellsFileSystemsApart(t *testing.T) {
	c := newCache(t)
	spec := c.spec()
	spec.Bind = true
	must(t, c.Mount(spec))
	ours, _, err := c.Lookup(c.target)
	must(t, err)
	must(t, c.Unmount(c.target))

	// The same path in another file system is not the cache's.
	other := t.TempDir()
	must(t, unix.Mount("tmpfs", other, "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(other, unix.MNT_DETACH) }()
	same := filepath.Join(other, ours.Root)
	must(t, os.MkdirAll(same, 0o755))
	must(t, os.Mkdir(c.target, 0o750))
	must(t, unix.Mount(same, c.target, "", unix.MS_BIND, ""))
	info, found, err := c.Lookup(c.target)
	must(t, err)
	if !found || info.Root != ours.Root || info.View != "" {
		t.Errorf("Lookup = %+v, %v; ours was %+v", info, found, ours)
	}
}

func TestLayersOutsideTheCacheAreRefused(t *testing.T) {
	c := newCache(t)
	outside := t.TempDir()
	at := func(p string) string { return filepath.Join(c.dir, p) }
	must(t, os.Symlink(outside, at("link")))
	must(t, os.Symlink("v1", at("views/alias")))
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	must(t, os.WriteFile(at("file"), nil, 0o600))
	must(t, os.Mkdir(at("elsewhere"), 0o755))
	must(t, unix.Mount("tmpfs", at("elsewhere"), "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(at("elsewhere"), 0) }()

	for _, layer := range []string{
		"", ".", "./", "..", "../cache/" + view, "views/../../cache/" + view, outside, "/etc", at(view),
		"link", "link/x", "views/alias/root", "fifo", "file", "absent", "elsewhere", view + "/config.json", "views/v1/root\x00",
	} {
		for _, bind := range []bool{false, true} {
			spec := c.spec()
			spec.View, spec.Bind = layer, bind
			if err := c.Mount(spec); err == nil {
				t.Errorf("View %q, bind %v was mounted", layer, bind)
				must(t, c.Unmount(c.target))
			}
		}
		spec := c.spec()
		spec.Empty = layer
		if err := c.Mount(spec); err == nil {
			t.Errorf("Empty %q was mounted", layer)
			must(t, c.Unmount(c.target))
		}
	}
	if _, err := os.Lstat(c.target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused mount left its target: %v", err)
	}
}

func TestMountRefusesABadTarget(t *testing.T) {
	c := newCache(t)
	elsewhere := t.TempDir()
	parent := filepath.Dir(c.target)
	at := func(p string) string { return filepath.Join(parent, p) }
	must(t, os.Symlink(elsewhere, at("link")))
	must(t, os.WriteFile(at("file"), nil, 0o600))
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	must(t, os.MkdirAll(at("full/x"), 0o700))
	for _, target := range []string{
		"", "relative", "/", at("a") + "/", parent + "/a/../b", at("absent/mount"), at("link"), at("file"), at("fifo"), at("full"), at("a\x00b"),
	} {
		spec := c.spec()
		spec.Target = target
		if err := c.Mount(spec); err == nil {
			t.Errorf("target %q was mounted on", target)
		}
	}
	if names, err := os.ReadDir(elsewhere); err != nil || len(names) != 0 {
		t.Errorf("through the link: %v, %v", names, err)
	}
}

func TestMountDoesNotHideAnotherMount(t *testing.T) {
	c := newCache(t)
	must(t, c.Mount(c.spec()))
	if err := c.Mount(c.spec()); !errors.Is(err, mount.ErrMounted) {
		t.Errorf("second Mount = %v, want ErrMounted", err)
	}
	must(t, c.Unmount(c.target))
}

func TestLookupSeesThroughLinksBeforeTheTargetAndOddNames(t *testing.T) {
	c := newCache(t)
	odd := filepath.Join(t.TempDir(), "a b\t\\040\nc#d")
	must(t, os.Mkdir(odd, 0o755))
	link := filepath.Join(t.TempDir(), "kubelet")
	must(t, os.Symlink(odd, link))
	spec := c.spec()
	spec.Target = filepath.Join(link, "mount")
	spec.Source = mount.Source("vol", spec.Target)
	must(t, c.Mount(spec))
	for _, target := range []string{spec.Target, filepath.Join(odd, "mount")} {
		info, found, err := c.Lookup(target)
		if err != nil || !found || info.Source != spec.Source {
			t.Errorf("Lookup(%q) = %+v, %v, %v", target, info, found, err)
		}
	}
	if _, found, err := c.Lookup(filepath.Join(link, "absent", "mount")); found || err != nil {
		t.Errorf("Lookup below an absent directory = %v, %v", found, err)
	}
	must(t, c.Unmount(spec.Target))
}

// Whatever is mounted over the way to a target, the mount on it is still there, and in
// use.
func TestLookupSeesAMountWhoseWayIsCovered(t *testing.T) {
	for name, bind := range map[string]bool{"overlay": false, "bind": true} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			pods := t.TempDir()
			pod := filepath.Join(pods, "pod")
			must(t, os.MkdirAll(filepath.Join(pod, "volumes/model"), 0o755))
			link := filepath.Join(t.TempDir(), "kubelet")
			must(t, os.Symlink(pods, link))
			spec := c.spec()
			spec.Bind, spec.Target = bind, filepath.Join(link, "pod/volumes/model/mount")
			must(t, c.Mount(spec))
			defer func() { must(t, c.Unmount(spec.Target)) }()
			must(t, unix.Mount("tmpfs", pod, "tmpfs", 0, ""))
			defer func() { must(t, unix.Unmount(pod, 0)) }()
			for _, target := range []string{spec.Target, filepath.Join(pod, "volumes/model/mount")} {
				if info, found, err := c.Lookup(target); !found || err != nil {
					t.Errorf("Lookup(%s) = %+v, %v, %v", target, info, found, err)
				}
			}
		})
	}
}

func TestLookupGoesThroughALinkWhoseEndIsCovered(t *testing.T) {
	for name, to := range map[string]func(disk string) string{
		"absolute":     func(disk string) string { return filepath.Join(disk, "kubelet") },
		"relative":     func(disk string) string { return "../" + filepath.Base(disk) + "/kubelet" },
		"a dot and so": func(disk string) string { return "./..//" + filepath.Base(disk) + "/x/../kubelet/" },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			dir, disk := t.TempDir(), t.TempDir()
			link := filepath.Join(filepath.Dir(disk), filepath.Base(dir)+"-links", "kubelet")
			must(t, os.MkdirAll(filepath.Dir(link), 0o755))
			must(t, os.Symlink(to(disk), link))
			must(t, os.Mkdir(filepath.Join(disk, "x"), 0o755))
			must(t, os.MkdirAll(filepath.Join(disk, "kubelet/pods"), 0o755))
			twice := filepath.Join(dir, "twice")
			must(t, os.Symlink(link, twice))
			spec := c.spec()
			spec.Target = filepath.Join(twice, "pods/mount")
			must(t, c.Mount(spec))
			defer func() { must(t, c.Unmount(spec.Target)) }()
			must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, ""))
			defer func() { must(t, unix.Unmount(disk, 0)) }()
			if info, found, err := c.Lookup(spec.Target); !found || err != nil || info.Source != spec.Source {
				t.Errorf("Lookup = %+v, %v, %v", info, found, err)
			}
		})
	}
}

func TestLookupThroughLinksWithoutEndIsAnError(t *testing.T) {
	c := newCache(t)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(link, link))
	if info, found, err := c.Lookup(filepath.Join(link, "mount")); err == nil {
		t.Errorf("Lookup = %+v, %v", info, found)
	}
}

func TestMountsListsEveryMountThatMayBeOfThisCache(t *testing.T) {
	c := newCache(t)
	dir := t.TempDir()
	at := func(name string) string {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
		return filepath.Join(dir, name)
	}
	bind := func(source, target string) { must(t, unix.Mount(source, target, "", unix.MS_BIND, "")) }
	t.Cleanup(func() {
		for _, e := range []string{"sub", "whole", "view", "file", "foreign", "other"} {
			_ = unix.Unmount(filepath.Join(dir, e), unix.MNT_DETACH)
		}
	})
	before, err := c.Mounts()
	must(t, err)

	must(t, c.Mount(c.spec()))
	bind(filepath.Join(c.target, "sub"), at("sub")) // as kubelet does for a subPath
	bind(c.dir, at("whole"))                        // the cache itself: no volume
	spec := c.spec()
	spec.Bind, spec.Target = true, at("view")
	must(t, c.Mount(spec))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	bind(filepath.Join(c.dir, view, "config.json"), filepath.Join(dir, "file")) // a subPath of a bind
	must(t, unix.Mount("tmpfs", at("foreign"), "tmpfs", 0, ""))
	other := newCache(t)
	must(t, other.Mount(mount.Spec{View: view, Empty: "empty", Source: "ballast:other", Target: at("other")}))

	got, err := c.Mounts()
	must(t, err)
	source := mount.Source("vol", c.target)
	want := map[string][2]string{ // source (of an overlay), View
		c.target:                    {source, ""},
		filepath.Join(dir, "sub"):   {source, ""},
		filepath.Join(dir, "view"):  {"", view},
		filepath.Join(dir, "file"):  {"", view + "/config.json"},
		filepath.Join(dir, "other"): {"ballast:other", ""}, // an overlay does not say whose layers it has
	}
	for _, info := range got {
		if slices.Contains(before, info) {
			continue
		}
		w, expected := want[info.Target]
		delete(want, info.Target)
		if !expected || info.View != w[1] || w[0] != "" && info.Source != w[0] {
			t.Errorf("listed %+v, want %q", info, w)
		}
	}
	for target := range want {
		t.Errorf("%s is not listed", target)
	}
}

func TestOverlayErrorSaysWhichStepFailed(t *testing.T) {
	c := newCache(t)
	spec := c.spec()
	spec.View = spec.Empty // one directory twice: the kernel refuses it
	err := c.Mount(spec)
	if err == nil {
		must(t, c.Unmount(c.target))
		t.Skip("this kernel accepts one directory as both layers")
	}
	if !strings.Contains(err.Error(), "fsconfig create") || !strings.Contains(err.Error(), spec.View) {
		t.Errorf("error %q names neither the step nor the View", err)
	}
	t.Log(err)
}

func TestTestsRunInANamespaceOfTheirOwn(t *testing.T) {
	self, err := os.Readlink("/proc/self/ns/mnt")
	must(t, err)
	parent, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	switch {
	case err != nil && mounttest.UserNamespace():
		t.Skipf("from a user namespace the parent's cannot be read: %v", err)
	case err != nil:
		t.Fatal(err)
	case self == parent:
		t.Error("these tests mount in their parent's namespace")
	}
}
