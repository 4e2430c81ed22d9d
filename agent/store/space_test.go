package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
)

// inNamespace reports whether the test runs in a mount namespace of its own. If not,
// it runs the test again in one, and passes its verdict on.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const env = "BALLAST_TEST_STORE_NAMESPACE"
	if os.Getenv(env) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", env+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("not root, and no user namespaces to be had: %v", err)
	}
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("in its own mount namespace: %v\n%s", err, out)
	}
	return false
}

// On a file system that is really full, everything says so and how much is free, and
// nothing is lost: once there is room it goes on from where it was.
func TestAFullDiskIsAClearErrorAndNothingIsLost(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := store.Open(store.Config{Dir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	small := storetest.File(t, "small.bin", random(1, 5000), true)
	large := storetest.File(t, "large.bin", random(2, twoPieces), true)
	huge := small
	huge.Size = 1 << 50
	mustBeFull := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrNoSpace) || !strings.Contains(err.Error(), "free in "+s.Dir()) {
			t.Errorf("%s says %v", what, err)
		}
	}

	_, err = s.Ingest(repoA, huge)
	mustBeFull("an ingest larger than the disk", err)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(huge.Size)) {
		t.Errorf("it does not say how much is needed: %v", err)
	}

	first := begin(t, s, repoA, large)
	free := fill(t, dir)
	_, err = s.Ingest(repoA, small)
	mustBeFull("an ingest on a full disk", err)
	write(t, first, random(2, twoPieces)) // its room was taken beforehand, but for the journal's
	if err := first.Verify(); err != nil {
		t.Fatal(err)
	}
	mustBeFull("Commit on a full disk", s.Commit(t.Context(), []*store.Ingest{first}))
	m := storetest.Manifest(t, repoA, commit1, map[string][]byte{"large.bin": random(2, twoPieces)}, isLFS)
	mustBeFull("PutManifest on a full disk", s.PutManifest(m))
	mustCheck(t, s.Dir())

	free()
	if err := s.Commit(t.Context(), []*store.Ingest{first}); err != nil {
		t.Errorf("Commit, once there is room: %v", err)
	}
	k := store.ViewKey{Revision: m.Revision, Ref: mainRef, Layout: store.HubCache}
	free = fill(t, dir)
	mustBeFull("AssembleView on a full disk", s.AssembleView(t.Context(), k, m))
	free()
	if err := s.AssembleView(t.Context(), k, m); err != nil {
		t.Fatal(err)
	}
	free = fill(t, dir)
	_, _, err = s.PinView(k, volume("1"))
	mustBeFull("PinView on a full disk", err)
	if s.Pinned("any") {
		t.Error("a pin that could not be written counts")
	}
	mustCheck(t, s.Dir())
	free()
	mustView(t, s, k, m, volume("1"))
	mustCheck(t, s.Dir())
}

// fill takes all room in dir, and returns how to give it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}
