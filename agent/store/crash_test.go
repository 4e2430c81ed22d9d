package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
)

// The environment of a child: the cache directory, and before which operation on the
// disk, from 1 on, it kills itself (0: never).
const (
	crashEnv   = "BALLAST_TEST_STORE_CRASH_DIR"
	crashAtEnv = "BALLAST_TEST_STORE_CRASH_AT"
)

// crashUser is who runs the children, if we may choose: as in a cluster, a plain user
// whom a file's mode binds.
const crashUser = 65536

func crashFiles() map[string][]byte {
	files := smallFiles()
	files["large.bin"] = random(3, twoPieces)
	return files
}

// childTB lets useStore run outside a test.
type childTB struct{ testing.TB }

// crashChild does everything a Store is for, over and over until it is done.
func crashChild(dir string) error {
	at, err := strconv.ParseInt(os.Getenv(crashAtEnv), 10, 64)
	if err != nil {
		return err
	}
	var n atomic.Int64
	s, err := store.OpenWith(store.Config{Dir: dir}, durabletest.Ops{Fault: func(durabletest.Op, string) (bool, error) {
		if n.Add(1) == at {
			return false, syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return true, nil
	}})
	if err != nil {
		return err
	}
	defer s.Close()
	files := crashFiles()
	return errors.Join(useStore(s, childTB{}, files), used(s, childTB{}, files))
}

// runChild returns whether the child was killed; killAfter > 0 kills it then.
func runChild(t *testing.T, dir string, at int, killAfter time.Duration) (killed bool) {
	t.Helper()
	// The link, not what it shows: go test's directory is closed to other users.
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), crashEnv+"="+dir, crashAtEnv+"="+strconv.Itoa(at))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: crashUser, Gid: crashUser}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if killAfter > 0 {
		timer := time.AfterFunc(killAfter, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out.String())
	}
	return false
}

// crashDir returns a directory that children may write.
func crashDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Getuid() == 0 {
		if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chown(dir, crashUser, crashUser)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A process is killed before each operation on the disk in turn, in all that a Store
// is for. Whoever opens the cache next finds its invariants, and carries it through.
func TestAProcessKilledAtAnyStepLeavesACacheThatTheNextCarriesOn(t *testing.T) {
	for at := 1; ; at++ {
		dir := crashDir(t)
		if !runChild(t, dir, at, 0) {
			if at < 60 {
				t.Errorf("only %d operations", at-1)
			}
			return
		}
		carryOn(t, dir, fmt.Sprintf("killed before operation %d", at))
		if t.Failed() {
			return
		}
		os.RemoveAll(dir)
	}
}

// The same at any moment, several times over the same directory.
func TestAProcessKilledAtAnyMomentLeavesACacheThatTheNextCarriesOn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3 {
		dir := crashDir(t)
		for range 4 {
			runChild(t, dir, 0, time.Duration(10+r.IntN(200))*time.Millisecond)
		}
		if runChild(t, dir, 0, 0) {
			t.Fatal("killed by somebody else")
		}
		carryOn(t, dir, "killed at random moments")
	}
}

// carryOn opens what a crash left, checks it, and does what is still to do.
func carryOn(t *testing.T, dir, after string) {
	t.Helper()
	s, err := store.Open(store.Config{Dir: dir})
	if err != nil {
		t.Fatalf("%s: %v", after, err)
	}
	defer s.Close()
	if err := store.CheckStore(dir); err != nil {
		t.Errorf("%s, opened again: %v", after, err)
	}
	files := crashFiles()
	if err := useStore(s, t, files); err != nil {
		t.Errorf("%s, carrying on: %v", after, err)
	}
	if err := errors.Join(used(s, t, files), store.CheckStore(dir)); err != nil {
		t.Errorf("%s, carried on: %v", after, err)
	}
}
