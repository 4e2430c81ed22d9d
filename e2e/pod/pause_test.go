package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pause needs to be PID 1, or an orphan is not its child.
func TestPauseReapsOrphansAndEndsOnSIGTERM(t *testing.T) {
	cmd := pod(t, "pause")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		orphan(t, cmd.Process.Pid)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := children(t, cmd.Process.Pid)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("never reaped: %v", left)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// orphan runs a process in the PID namespace of init whose parent is gone before it
// ends, so that it becomes init's child.
func orphan(t *testing.T, init int) {
	t.Helper()
	enter := exec.CommandContext(t.Context(), "nsenter", "--target", strconv.Itoa(init), "--pid", "sh", "-c", "sleep 0.2 >/dev/null 2>&1 & sleep 0.1")
	if said, err := enter.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if len(children(t, init)) == 0 {
		t.Error("the orphan did not become pause's child")
	}
}

func children(t *testing.T, pid int) []string {
	t.Helper()
	p := strconv.Itoa(pid)
	var found []string
	tasks, err := filepath.Glob("/proc/" + p + "/task/*/children")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no tasks of process %d: %v", pid, err)
	}
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, strings.Fields(string(text))...)
	}
	return found
}
