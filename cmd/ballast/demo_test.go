package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/csi/mount/mounttest"
	"github.com/ballast-csi/ballast/fetcher"
)

// First arguments with which this binary is not the tests but "ballast demo", with a
// small model, or with one that takes minutes to fetch. Those of the other
// subcommands make it ballast itself.
const (
	beDemo     = "demo"
	beSlowDemo = "slow-demo"
)

func smallModel() modelSize {
	return modelSize{shards: []int64{18 << 20, 17 << 20, 17<<20 + 2}, small: 24, bytesPerSecond: 500e6}
}

func TestMain(m *testing.M) {
	size := smallModel()
	switch what := append(os.Args, "")[1]; what {
	case beSlowDemo:
		size.bytesPerSecond = 200e3
		fallthrough
	case beDemo:
		os.Exit(demoMain(size))
	case "agent", "csi", "prepare", "probe":
		main()
		os.Exit(0)
	}
	mounttest.Main(m)
}

// demoMain is main with only the demo.
func demoMain(size modelSize) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := newDemoCommand(size)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(os.Args[2:])
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "ballast:", err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

// demoProcess prepares this binary to run as a demo whose temporary files go to tmp.
func demoProcess(t *testing.T, tmp string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	return cmd
}

// shortDir is a temporary directory whose path leaves room for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// left lists what is in dir.
func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestDemoHoldsEveryCheckAndLeavesNothing(t *testing.T) {
	tmp := shortDir(t)
	mounts, err := mountCount()
	if err != nil {
		t.Fatal(err)
	}
	text, err := demoProcess(t, tmp, beDemo).CombinedOutput()
	if err != nil {
		t.Fatalf("the demo failed: %v\n%s", err, text)
	}
	for _, want := range []string{
		"✓ a Hub, with a model of noise       33 files",
		"1  Pod trainer wants", "✓ its volume is mounted              in ",
		"✓ all match, and none is extra       33 files",
		": 0 B fetched, 0 requests", "33 of 33 files are the same inodes",
		"✓ every way of writing is refused", "✓ the file is what it was",
		"✓ pod updated wants v2: refused", "DataLoss", "model-00002-of-00003.safetensors from hub",
		"18 MB fetched, just that file", "32 of 33 inodes are shared",
		"✓ pod offline wants commit",
		"✓ nothing is mounted", "✓ no pin is left", "✓ the cache is sound", "✓ so is the embedded Hub's",
		"checks held, in ", "4 pods saw ", "18 MB of it in vain",
	} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the demo did not print %q", want)
		}
	}
	if bytes.ContainsAny(text, "✗\r\x1b") {
		t.Error("there is a failed check, or terminal control where there is no terminal")
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
	if names := left(t, tmp); names != nil {
		t.Errorf("the demo left %v", names)
	}
	if after, err := mountCount(); err != nil || after != mounts {
		t.Errorf("mounts: %d before, %d after (%v)", mounts, after, err)
	}
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			tmp := shortDir(t)
			cmd := demoProcess(t, tmp, beSlowDemo)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var errOut strings.Builder
			cmd.Stderr = &errOut
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var signalled time.Time
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if strings.Contains(lines.Text(), "fetching") && signalled.IsZero() { // in the middle of a publish
					signalled = time.Now()
					if err := cmd.Process.Signal(sig); err != nil {
						t.Fatal(err)
					}
				}
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
				t.Errorf("ended with %v, want exit code %d", err, exitFailed)
			}
			if took := time.Since(signalled); took > 10*time.Second {
				t.Errorf("it took %s to end", took)
			}
			if !strings.Contains(errOut.String(), "interrupted; nothing is left") {
				t.Errorf("it said %q", errOut.String())
			}
			if names := left(t, tmp); names != nil {
				t.Errorf("it left %v", names)
			}
		})
	}
}

// inWorld makes a world for cfg in a directory of its own.
func inWorld(t *testing.T, cfg demoConfig) *world {
	t.Helper()
	cfg.dir, cfg.user = shortDir(t), mounttest.UserNamespace()
	w, err := newWorld(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range []string{"cache", "hub"} {
			if err := store.CheckStore(w.path(dir)); err != nil && (dir == "cache" || w.hub != nil) {
				t.Errorf("%s: %v", dir, err)
			}
		}
	})
	return w
}

func TestDemoFailsIfTheHubGivesDamagedBytes(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := inWorld(t, demoConfig{size: smallModel()})
	bad := makeModel(smallModel(), 1)[4]
	path, err := fetcher.ParsePath(bad.path)
	if err != nil {
		t.Fatal(err)
	}
	w.hub.flip.Store(&fetcher.File{Path: path, Size: bad.size})
	var text strings.Builder
	err = runSteps(t.Context(), w, &text)
	if err == nil || !strings.Contains(err.Error(), "1 of 10 checks did not hold") {
		t.Errorf("runSteps = %v", err)
	}
	for _, want := range []string{"✗ its volume is mounted", "DataLoss", bad.path + " from hub", "✓ nothing is mounted", "✓ no pin is left", "✓ the cache is sound"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("it did not print %q", want)
		}
	}
	if t.Failed() {
		t.Log(text.String())
	}
}

func TestDemoRefusesBadFlags(t *testing.T) {
	full := shortDir(t)
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--dir", full}, {"--revision", "main"}, {"--hub-endpoint", "http://localhost"}, {"surplus"},
		{"--repo", "a b"}, {"--revision", "a b", "--repo", "a"}, {"--hub-endpoint", "ftp://localhost", "--repo", "a"}, {"--no-such-flag"},
	} {
		cmd := newDemoCommand(smallModel())
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetArgs(args)
		cmd.SetOut(io.Discard)
		err := cmd.ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), strings.TrimLeft(args[0], "-")) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if names := left(t, full); len(names) != 1 {
		t.Errorf("the directory holds %v now", names)
	}
}

// By hand it would make every mount of the machine private.
func TestDemoInsideByHandIsRefused(t *testing.T) {
	tmp, dir := shortDir(t), shortDir(t)
	for _, inside := range []string{insideRoot, insideUser} {
		cmd := demoProcess(t, tmp, beDemo, "--inside="+inside, "--dir="+dir)
		text, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitUsage {
			t.Errorf("--inside=%s ended with %v, want exit code %d", inside, err, exitUsage)
		}
		if !bytes.Contains(text, []byte("leave it out")) || !bytes.Contains(text, []byte("nothing was changed")) {
			t.Errorf("it said %q", text)
		}
		if names := left(t, dir); names != nil {
			t.Errorf("it left %v", names)
		}
	}
}

func TestDemoNamesADiskThatIsTooSmall(t *testing.T) {
	err := checkPlace(t.TempDir(), 1<<60)
	if err == nil || !strings.Contains(err.Error(), "free, the demo needs") {
		t.Errorf("checkPlace = %v", err)
	}
	if err := checkPlace("/"+strings.Repeat("x", 100), 0); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("checkPlace of a long path = %v", err)
	}
}
