package main

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/csi/mount/mounttest"
)

// asPod makes the test binary be the command itself.
const asPod = "BALLAST_E2E_POD"

func TestMain(m *testing.M) {
	if os.Getenv(asPod) != "" {
		main()
		os.Exit(0)
	}
	mounttest.Main(m)
}

// pod is the command with these arguments.
func pod(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), asPod+"=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// lines starts cmd and returns its standard output.
func lines(t *testing.T, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return bufio.NewScanner(out)
}

func TestTrueEndsWell(t *testing.T) {
	if err := pod(t, "true").Run(); err != nil {
		t.Error(err)
	}
}

func TestUnknownSubcommandFails(t *testing.T) {
	for _, args := range [][]string{{}, {"nap"}, {"hold", "up"}, {"sum"}} {
		cmd := pod(t, args...)
		cmd.Stderr = nil
		if err := cmd.Run(); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

func TestHoldTellsItsStartAndEndsWellOnSIGTERM(t *testing.T) {
	before := time.Now()
	cmd := pod(t, "hold")
	out := lines(t, cmd)
	out.Scan()
	said, ok := strings.CutPrefix(out.Text(), "started ")
	started, err := time.Parse(time.RFC3339Nano, said)
	if !ok || err != nil || started.Before(before) || started.After(time.Now()) {
		t.Errorf("said %q, error %v", out.Text(), err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
