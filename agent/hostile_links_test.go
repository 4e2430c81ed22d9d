package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// links is how many names ext4 gives a file (EXT4_LINK_MAX of fs/ext4/ext4.h).
const links = 65_000

// onExt4 mounts a new ext4 of some MiB in a mount namespace of the test's own and
// returns a directory on it. The test runs again there, as another process; ok is
// false in this one.
func onExt4(t *testing.T, mib int) (dir string, ok bool) {
	t.Helper()
	const env = "BALLAST_TEST_EXT4"
	dir = os.Getenv(env)
	if dir != "" {
		return dir, true
	}
	if os.Getuid() != 0 {
		t.Skip("mounting an ext4 of one's own needs root")
	}
	dir = t.TempDir()
	image := filepath.Join(dir, "image")
	script := fmt.Sprintf("mount --make-rprivate / && truncate -s %dM %s && mkfs.ext4 -q -N 300000 %s && mkdir %s/on && mount -o loop %s %s/on && exec \"$@\"",
		mib, image, image, dir, image, dir)
	cmd := exec.Command("sh", "-c", script, "sh", must1(os.Executable()), "-test.run=^"+t.Name()+"$", "-test.v", fmt.Sprintf("-long=%t", *long))
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", env+"="+dir+"/on")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case !strings.Contains(string(out), "=== RUN"):
		t.Skipf("no ext4 in a loop device is to be had: %v: %s", err, out)
	case err != nil || !strings.Contains(string(out), "\nPASS"):
		t.Errorf("on an ext4 of its own: %v\n%s", err, out)
	}
	return dir, false
}

// identical lists n files of one content.
func identical(e *evil, n int, content []byte) {
	sum := gitSum(content)
	for i := range n {
		e.list(fmt.Sprintf("same-%06d", i), int64(len(content)), sum)
	}
	e.files["same-000000"] = evilFile{content: content, sum: sum}
}

// A file has no more than 65,000 names on ext4: what is beyond is a copy, which takes
// no more open files than anything else.
func TestHostileRepositoryOfManyIdenticalFilesIsGiven(t *testing.T) {
	dir, ok := onExt4(t, 512)
	if !ok {
		return
	}
	n := 66_000
	if *long {
		n = 100_000
	}
	const files = 1000
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}))
	w := newWorld(t)
	w.dir = filepath.Join(dir, "cache")
	w.start()
	e, _ := newEvil(evilRepo)
	identical(e, n, []byte("the same"))
	w.hub.Intercept(e.answer)
	var m agent.Mountable
	var err error
	took, grew := measure(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		m, err = w.Acquire(ctx, hostileRequest(nil))
	})
	must(t, err)
	bounds(t, took, 2*time.Minute, grew, 256<<20)
	one, err := os.Stat(filepath.Join(w.dir, m.View, "same-000000"))
	must(t, err)
	last, err := os.Stat(filepath.Join(w.dir, m.View, fmt.Sprintf("same-%06d", n-1)))
	must(t, err)
	if os.SameFile(one, last) || one.Sys().(*syscall.Stat_t).Nlink != links {
		t.Errorf("%d links, and the last file is one of them: %t", one.Sys().(*syscall.Stat_t).Nlink, os.SameFile(one, last))
	}
}

// Copies leave the reserve alone, as downloads do.
func TestHostileCopiesLeaveWhatIsKeptFree(t *testing.T) {
	if !*long {
		t.Skip("65,000 links are made, checked and removed once more; make test-long runs it, and agent/store tests the same with few links")
	}
	dir, ok := onExt4(t, 512)
	if !ok {
		return
	}
	w := newWorld(t)
	w.dir = filepath.Join(dir, "cache")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w.cfg.Pods = events(func(_ agent.Pod, warning bool, _ string) {
		if warning {
			cancel()
		}
	})
	const reserve, size = 260 << 20, 100 << 20
	w.startWith(store.Config{Reserve: reserve}, fetcher.EngineConfig{})
	e, _ := newEvil(evilRepo)
	identical(e, links+1, bytes.Repeat([]byte("same"), size/4)) // there is room for one, not for a copy
	w.hub.Intercept(e.answer)
	least := make(chan int64)
	go func() {
		free := int64(1 << 62)
		for ctx.Err() == nil {
			var st unix.Statfs_t
			if unix.Statfs(dir, &st) == nil {
				free = min(free, int64(st.Bavail)*st.Frsize)
			}
			time.Sleep(time.Millisecond)
		}
		least <- free
	}()
	_, err := w.Acquire(ctx, hostileRequest(nil))
	cancel()
	var waiting *agent.WaitingError
	if !errors.As(err, &waiting) || !strings.Contains(err.Error(), "no space") {
		t.Errorf("Acquire: %v; want it to wait for space", err)
	}
	if free := <-least; free < reserve {
		t.Errorf("%d bytes were left free, want %d", free, reserve)
	}
}
