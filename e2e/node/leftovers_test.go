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
			if err := before.compare(work); err != nil {
				t.Error(err)
			}
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
	if err := before.compare(work); err != nil {
		t.Error(err)
	}
}

// TestLeftoversAreFound: the check above can fail.
func TestLeftoversAreFound(t *testing.T) {
	before := must(look())(t)
	work := t.TempDir()
	process := exec.Command("sleep", "60")
	process.Env = []string{"DIR=" + work}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	}()
	err := before.compare(work)
	if err == nil {
		t.Fatal("a process and a directory were not found")
	}
	for _, what := range []string{"process: ", "directory: " + work} {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("no %q in: %v", what, err)
		}
	}
	before["interface"] = nil
	if err := before.compare(work); !strings.Contains(err.Error(), "interface: lo") {
		t.Errorf("a new interface was not found: %v", err)
	}
}

func TestMissingPackagesAreNamedWithTheirInstallCommand(t *testing.T) {
	if err := Missing(); err != nil {
		t.Fatalf("this machine should have all: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	err := Missing()
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
