// Package mounttest runs a package's tests in a private mount namespace, so that
// they can mount for real, as root or not, and leave nothing behind.
//
// It must never know what is tested.
package mounttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/ballast-csi/ballast/csi/mount"
)

const (
	// inside marks the process that is in the namespace. Its value is "root" or "user".
	inside = "BALLAST_MOUNTTEST"
	// private names the namespace that such a process has made private, as
	// /proc/self/ns/mnt does, for its children, which are in it too: a fuzz test's
	// workers are the test binary.
	private = "BALLAST_MOUNTTEST_NAMESPACE"
)

// Main is what a package's TestMain calls, as its last statement. It runs the test
// binary again, with the same arguments, in a mount namespace of its own (and a user
// namespace unless it is root), and exits as that does. If there is no way to do it,
// it says why and exits with 1: tests that did not run have not passed.
func Main(m interface{ Run() int }) {
	if os.Getenv(inside) != "" {
		if err := enter(); err != nil {
			fail("these tests mount things: %v", err)
		}
		os.Exit(m.Run())
	}
	os.Exit(again())
}

// enter makes this process' namespace private, unless a parent of it has done so.
func enter() error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if os.Getenv(private) == own {
		return nil
	}
	if err := mount.MakePrivate(); err != nil {
		return err
	}
	return os.Setenv(private, own)
}

// UserNamespace reports whether the tests run in a user namespace, not as real root.
func UserNamespace() bool { return os.Getenv(inside) == "user" }

func again() int {
	runtime.LockOSThread() // Pdeathsig follows the thread that starts the child
	exe, err := os.Executable()
	if err != nil {
		fail("find the test binary: %v", err)
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	kind := "root"
	if mount.PrivateNamespace(cmd) {
		kind = "user"
	}
	cmd.Env = append(cmd.Environ(), inside+"="+kind)

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		fail("these tests mount things, and a private mount namespace is not to be had here: %v\n"+
			"Run them as root with CAP_SYS_ADMIN, or allow unprivileged user namespaces\n"+
			"(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns).", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // "go test" asks for goroutine dumps with SIGQUIT
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintf(os.Stderr, "mounttest: the tests ended abnormally: %v\n", err)
	return 1
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "mounttest: "+format+"\n", args...)
	os.Exit(1)
}
