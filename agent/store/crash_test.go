package store_test

import (
	"bytes"
	"context"
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

// The environment of a child: the cache directory; before which operation on the disk,
// from 1 on, it kills itself (0: never; onlyOpen: it opens the cache and no more); and whether it has a large file to bring.
const (
	crashEnv      = "BALLAST_TEST_STORE_CRASH_DIR"
	crashAtEnv    = "BALLAST_TEST_STORE_CRASH_AT"
	crashLargeEnv = "BALLAST_TEST_STORE_CRASH_LARGE"
)

const onlyOpen = -1

// crashUser is who runs the children, if we may choose: as in a cluster, a plain user
// whom a file's mode binds.
const crashUser = 65536

func crashFiles(large bool) map[string][]byte {
	if !large {
		return map[string][]byte{"README.md": []byte("# hello\n"), "sub/weights.bin": random(1, 5000)}
	}
	files := smallFiles()
	files["large.bin"] = bytes.Repeat(random(3, 1<<10), twoPieces>>10+1)
	return files
}

// childTB lets useStore run outside a test.
type childTB struct{ testing.TB }

func (childTB) Helper()                  {}
func (childTB) Context() context.Context { return context.Background() }
func (childTB) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }

// crashChild opens what a crash may have left, checks it, and does everything that a
// Store is for.
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
	if at == onlyOpen {
		return nil
	}
	if err := store.CheckStore(dir); err != nil {
		return fmt.Errorf("opened: %w", err)
	}
	files := crashFiles(os.Getenv(crashLargeEnv) != "")
	if err := useStore(s, childTB{}, files); err != nil {
		return err
	}
	return errors.Join(used(s, childTB{}, files), store.CheckStore(dir))
}

// runChild returns whether the child was killed; killAfter > 0 kills it then.
func runChild(t *testing.T, dir string, at int64, large string, killAfter time.Duration) (killed bool) {
	t.Helper()
	// The link, not what it shows: go test's directory is closed to other users.
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = dir
	// A process under the race detector would wait a second before it ends.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", crashEnv+"="+dir, crashAtEnv+"="+strconv.FormatInt(at, 10), crashLargeEnv+"="+large)
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
	dir := quickDir(t)
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
	for at := int64(1); !t.Failed(); at++ {
		dir := crashDir(t)
		if !runChild(t, dir, at, "", 0) {
			if at < 60 {
				t.Errorf("only %d operations", at-1)
			}
			return
		}
		t.Logf("killed before operation %d", at)
		runChild(t, dir, 0, "", 0)
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
			runChild(t, dir, 0, "large", time.Duration(10+r.IntN(200))*time.Millisecond)
		}
		runChild(t, dir, 0, "large", 0)
	}
}
