package node

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// started starts a run and returns it when its node is up, with its work directory.
func started(t *testing.T, how string) (*exec.Cmd, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a node needs root")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asRun+"="+how)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		t.Log(lines.Text())
		if work, ok := strings.CutPrefix(lines.Text(), "up in "); ok {
			go func() {
				for lines.Scan() {
				}
			}()
			return cmd, work
		}
	}
	t.Fatalf("the run ended before its node was up: %v", cmd.Wait())
	return nil, ""
}

func TestRunLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name, how string
		end       syscall.Signal // 0: it ends by itself
		code      int
	}{
		{"that ends well", "end", 0, 0},
		{"that fails", "fail", 0, 1},
		{"that reboots its node", "reboot", 0, 0},
		{"that is interrupted", "wait", syscall.SIGINT, 1},
		{"that is terminated", "wait", syscall.SIGTERM, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := must(look())(t)
			run, work := started(t, c.how)
			if c.end != 0 {
				if err := run.Process.Signal(c.end); err != nil {
					t.Fatal(err)
				}
			}
			_ = run.Wait()
			if got := run.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d; want %d", got, c.code)
			}
			nothingNew(t, before, work)
		})
	}
}

// TestKilledRunLeavesNothingThatRuns: what it cannot remove any more the next run does.
func TestKilledRunLeavesNothingThatRuns(t *testing.T) {
	before := must(look())(t)
	run, work := started(t, "wait")
	if err := run.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = run.Wait()
	var left []string
	for range 50 { // the kernel ends them after their parent
		left = slices.DeleteFunc(belongings(work), func(what string) bool {
			return strings.HasPrefix(what, "cgroup: ") || strings.HasPrefix(what, "directory: ")
		})
		if len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(left) > 0 {
		t.Errorf("still here: %q", left)
	}
	removeStale(filepath.Dir(work))
	nothingNew(t, before, work)
}

// nothingNew is stricter than a run is with itself: these are short, and what comes
// meanwhile is taken for theirs.
func nothingNew(t *testing.T, before state, work string) {
	t.Helper()
	left, others, err := before.compare(work)
	if err != nil || len(left) > 0 || len(others) > 0 {
		t.Errorf("left: %q, new: %q, error: %v", left, others, err)
	}
}

// TestLeftoversAreFound: the check above can fail, for each thing that it looks for.
func TestLeftoversAreFound(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making leftovers needs root")
	}
	before := must(look())(t)
	work := must(newWorkDir(t.TempDir()))(t)
	name := filepath.Base(work.path)
	process := exec.Command("sleep", "60")
	process.Env = []string{"DIR=" + work.path}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	}()
	disk := filepath.Join(work.path, "disk.ext4")
	if err := run("truncate -s 8M "+disk, "mkfs.ext4 -q "+disk, "mount -o loop "+disk+" "+filepath.Join(work.path, "disk"),
		"ip link add left0 type bridge"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run("umount "+filepath.Join(work.path, "disk"), "ip link del left0"); err != nil {
			t.Error(err)
		}
		if err := work.remove(); err != nil {
			t.Error(err)
		}
	})
	group := filepath.Join(must(hierarchies())(t)[0].path, name)
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	left, others, err := before.compare(work.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		what string
		in   []string
	}{
		{"(environ) sleep", left}, {"(mountinfo)", left}, {"cgroup: " + group, left}, {"loop device: ", left}, {"directory: " + work.path, left},
		{"interface: left0", others}, {"mount: ", others},
	} {
		if !slices.ContainsFunc(want.in, func(found string) bool { return strings.Contains(found, want.what) }) {
			t.Errorf("no %q in %q", want.what, want.in)
		}
	}
}

// TestStaleRunsAreRemovedAndNothingElse: anybody can make a directory of such a name.
func TestStaleRunsAreRemovedAndNothingElse(t *testing.T) {
	parent := t.TempDir()
	stale := must(newWorkDir(parent))(t)
	stale.lock.Close() // as when its process was killed
	live := must(newWorkDir(parent))(t)
	defer live.lock.Close()
	notes, linked, elsewhere := filepath.Join(parent, prefix+"notes"), filepath.Join(parent, prefix+"linked"), filepath.Join(parent, "elsewhere")
	for _, d := range []string{notes, linked} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, filepath.Join(linked, "lock")); err != nil {
		t.Fatal(err)
	}
	removeStale(parent)
	for path, want := range map[string]bool{stale.path: false, live.path: true, notes: true, linked: true, elsewhere: false} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s is there: %t; want %t", path, err == nil, want)
		}
	}
}

func TestMissingPackagesAreNamedWithTheirInstallCommand(t *testing.T) {
	if err := missing(); err != nil {
		t.Fatalf("this machine should have all: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	err := missing()
	if err == nil {
		t.Fatal("nothing is missing without any command")
	}
	for _, want := range []string{"lacks iproute2 e2fsprogs", "apt-get install --no-install-recommends -y iproute2 e2fsprogs"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
