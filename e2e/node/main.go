package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// role says which of the three a process is, and dir where its work directory is
// (see the package's comment).
const (
	role = "BALLAST_E2E_ROLE"
	dir  = "BALLAST_E2E_DIR"
)

// Run is a run of tests.
type Run struct {
	Tests interface{ Run() int } // a *testing.M
	// Prepare runs outside, before the tests, with the network of this machine: it
	// builds what the tests need into the work directory. What it does is told on w.
	Prepare  func(ctx context.Context, dir string, w io.Writer) error
	KeepLogs string // directory that gets the logs of a run that failed; empty: they go
}

// Main is what a package's TestMain calls, as its last statement. It exits with the
// tests' result, or with 1 and the reason if they left anything behind.
func Main(r Run) {
	switch os.Getenv(role) {
	case "machine":
		fail(machineInit(os.Getenv(dir)))
	case "inside":
		if err := enter(); err != nil {
			fail(err)
		}
		os.Exit(r.Tests.Run())
	}
	code, err := r.outside()
	if err != nil {
		fail(err)
	}
	os.Exit(code)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	os.Exit(1)
}

// Dir is the run's work directory, which goes when the run ends.
func Dir() string { return os.Getenv(dir) }

func (r Run) outside() (code int, err error) {
	runtime.LockOSThread() // Pdeathsig follows the thread that starts the child
	if os.Getuid() != 0 {
		return 0, errors.New("a node needs root: run as root")
	}
	if err := missing(); err != nil {
		return 0, err
	}
	if err := usable(os.TempDir()); err != nil {
		return 0, err
	}
	removeStale(os.TempDir())
	before, err := look()
	if err != nil {
		return 0, err
	}
	work, err := newWorkDir(os.TempDir())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, work.leave(before)) }()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := r.Prepare(ctx, work.path, os.Stdout); err != nil {
		return 0, err
	}
	code, err = inside(ctx, work.path)
	if (code != 0 || err != nil) && r.KeepLogs != "" {
		err = errors.Join(err, keepLogs(work.path, r.KeepLogs))
	}
	return code, err
}

// usable refuses a directory that a node machine cannot see: it has others there.
func usable(tmp string) error {
	for _, hidden := range []string{"/run", "/var/lib", "/var/log"} {
		for what, dir := range map[string]string{"TMPDIR": tmp, "the user's cache directory": os.Getenv("HOME")} {
			if dir == hidden || strings.HasPrefix(dir, hidden+"/") {
				return fmt.Errorf("%s is %s: the node has a %s of its own; set TMPDIR, or HOME, to another directory", what, dir, hidden)
			}
		}
	}
	return nil
}

// inside runs the test binary again in namespaces of its own, until it ends by itself
// or ctx ends it with everything that it started.
func inside(ctx context.Context, work string) (int, error) {
	cmd := again(ctx, "inside", work, syscall.CLONE_NEWNET)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.Args = append(cmd.Args, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 1, errors.New("interrupted: everything that was started has been ended")
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode(), nil
	}
	return 0, err
}

// again is this program in a role of its own, in new mount, PID, IPC and UTS
// namespaces and those of flags. All that it started dies with it.
func again(ctx context.Context, as, work string, flags uintptr) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe") // that is killed, and all that it started with it
	cmd.Env = append(os.Environ(), role+"="+as, dir+"="+work)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | flags,
	}
	return cmd
}

// enter makes the namespaces that the process is in usable.
func enter() error {
	if err := privateProc(); err != nil {
		return err
	}
	return run(
		"ip link set lo up",
		"ip link add ballast0 type bridge",
		"ip addr add "+HostIP+"/24 dev ballast0",
		"ip addr add "+apiIP+"/32 dev ballast0",
		"ip link set ballast0 up",
		"ip route add "+podCIDR+" via "+machineIP+" dev ballast0",
	)
}

// privateProc takes the mount namespace apart from its parent's and shows the
// processes of the new PID namespace.
func privateProc() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// run runs commands, each of words without quoting, until one fails.
func run(commands ...string) error {
	for _, c := range commands {
		words := strings.Fields(c)
		if said, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c, err, said)
		}
	}
	return nil
}

func logFile(work, name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(work, "logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// keepLogs copies what the programs and the pods of a run said to a directory.
func keepLogs(work, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	for name, from := range map[string]string{"": filepath.Join(work, "logs"), "pods": filepath.Join(work, "disk", "var", "log", "pods")} {
		if _, err := os.Stat(from); err != nil {
			continue // it did not come so far
		}
		if err := os.CopyFS(filepath.Join(to, name), os.DirFS(from)); err != nil {
			return err
		}
	}
	fmt.Println("logs are kept in", to)
	return nil
}
