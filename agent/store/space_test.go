package store_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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

// smallDisk mounts a file system of 40 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// What a download may not take is there for what is here already.
func TestADiskThatIsFullForDownloadsHasRoomForPins(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for name, test := range map[string]struct {
		reserve int64
		percent float64
		kept    int64
	}{
		"default": {0, 0, 2 << 20}, "percent": {0, 15, 6 << 20}, "given": {6 << 20, 50, 6 << 20}, "none": {-1, 0, 0},
	} {
		dir := smallDisk(t)
		s, err := store.Open(store.Config{Dir: filepath.Join(dir, "cache"), Reserve: test.reserve, ReservePercent: test.percent})
		if err != nil {
			t.Fatal(err)
		}
		m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
		k := store.ViewKey{Revision: m.Revision, Ref: mainRef, Layout: store.HubCache}
		// Many at once: none takes what another was promised.
		var wg sync.WaitGroup
		var full atomic.Int32
		start := make(chan struct{})
		for i := range 10 {
			f := storetest.File(t, fmt.Sprint(i, ".bin"), random(uint64(i), 100), true)
			f.Size = 5 << 20
			wg.Go(func() {
				<-start
				in, err := s.Ingest(originA, f)
				switch {
				case err == nil:
					defer in.Close()
				case !errors.Is(err, store.ErrNoSpace) || errors.Is(err, store.ErrTooLarge):
					t.Errorf("%s: Ingest says %v", name, err)
				default:
					full.Add(1)
					if !strings.Contains(err.Error(), fmt.Sprintf("%d bytes are needed", 5<<20)) || !strings.Contains(err.Error(), fmt.Sprintf("the %d that downloads leave free", test.kept)) {
						t.Errorf("%s: the error does not say what is needed and kept: %v", name, err)
					}
				}
			})
		}
		close(start)
		wg.Wait()
		if full.Load() == 0 || full.Load() > 5 {
			t.Errorf("%s: %d of 10 ingests found no room", name, full.Load())
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if free := int64(st.Bavail) * st.Frsize; free < test.kept {
			t.Errorf("%s: %d bytes are left, %d were to be kept", name, free, test.kept)
		}
		if test.kept > 0 {
			mustView(t, s, k, m, volume("1"))
			fill := filepath.Join(dir, "filler") // the disk as whole, but for a page or two
			if err := os.WriteFile(fill, make([]byte, test.kept/2), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := s.PinView(t.Context(), k, volume("2")); err != nil || !ok {
				t.Errorf("%s: PinView says %v, %v", name, ok, err)
			}
		}
		s.Close()
		mustCheck(t, s.Dir())
	}
}

// A size is what somebody claims: it costs nothing to claim much.
func TestAFileLargerThanTheDiskIsRefusedForGoodWhateverItsSize(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s, err := store.Open(store.Config{Dir: filepath.Join(smallDisk(t), "cache")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, size := range []int64{39 << 20, 41 << 20, 1 << 50, 1 << 62, math.MaxInt64} {
		f := storetest.File(t, "huge.bin", random(1, 100), true)
		f.Size = size
		_, err := s.Ingest(originA, f)
		if !errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrNoSpace) || !strings.Contains(err.Error(), fmt.Sprint(size)) {
			t.Errorf("%d bytes: Ingest says %v", size, err)
		}
	}
	f := storetest.File(t, "large.bin", random(1, 100), true)
	f.Size = 37 << 20 // would fit, if nothing else were here
	first := begin(t, s, originB, storetest.File(t, "other.bin", random(2, 5<<20), true))
	defer first.Close()
	if _, err := s.Ingest(originA, f); !errors.Is(err, store.ErrNoSpace) || errors.Is(err, store.ErrTooLarge) {
		t.Errorf("Ingest says %v", err)
	}
	if st := s.Stats(); st.Ingests != 1 {
		t.Errorf("left behind: %+v", st)
	}
}

// On a file system that is really full, everything says so and how much is free, and
// nothing is lost: once there is room it goes on from where it was.
func TestAFullDiskIsAClearErrorAndNothingIsLost(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := smallDisk(t)
	s, err := store.Open(store.Config{Dir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	small := storetest.File(t, "small.bin", random(1, 5000), true)
	large := storetest.File(t, "large.bin", random(2, twoPieces), true)
	mustBeFull := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrNoSpace) || !strings.Contains(err.Error(), "free in "+s.Dir()) {
			t.Errorf("%s says %v", what, err)
		}
	}

	first := begin(t, s, originA, large)
	free := fill(t, dir)
	_, err = s.Ingest(originA, small)
	mustBeFull("an ingest on a full disk", err)
	write(t, first, random(2, twoPieces)) // its room was taken beforehand, but for the journal's
	if err := first.Verify(); err != nil {
		t.Fatal(err)
	}
	mustBeFull("Commit on a full disk", s.Commit(t.Context(), []*store.Ingest{first}))
	m := storetest.Manifest(t, repoA, commit1, map[string][]byte{"large.bin": random(2, twoPieces)}, isLFS)
	mustBeFull("PutManifest on a full disk", s.PutManifest(originA, m))
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
	_, _, err = s.PinView(t.Context(), k, volume("1"))
	mustBeFull("PinView on a full disk", err)
	if s.Pinned("any") {
		t.Error("a pin that could not be written counts")
	}
	mustCheck(t, s.Dir())
	s.Close()
	tear(t, filepath.Join(s.Dir(), "origins", "model", "org--model-a"))
	if s, err = store.Open(store.Config{Dir: s.Dir()}); err != nil {
		t.Fatalf("a full disk stops a start: %v", err)
	}
	defer s.Close()
	free()
	storetest.Ingest(t, s, repoA, small, random(1, 5000)) // replaces the torn file first
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
