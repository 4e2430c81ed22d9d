// Package modelexpress runs the real Model Express server: the one of crates.io, built
// once into the user's cache directory, offline on a cache directory.
package modelexpress

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// The releases that are run.
const (
	Newest = "0.7.0"
	// WithoutRevisions is the last one that ignores which revision is asked for.
	WithoutRevisions = "0.5.1"
)

// features are, by release, the least that runs without a Redis.
var features = map[string]string{Newest: "tls-rustls,memory-backend", WithoutRevisions: "memory-backend"}

// ErrNoTools says that this machine cannot build the server.
var ErrNoTools = errors.New("building modelexpress-server needs cargo (Rust 1.90 or newer, rustup.rs) and protoc (apt-get install protobuf-compiler)")

// ErrNotAskedFor says that an older release is not there and was not asked for.
var ErrNotAskedFor = errors.New("it is not built; MODEL_EXPRESS_TEST_OLD=1 has it built, which takes some ten minutes")

// where returns where the program of a release is, or will be.
func where(version string) (program string, there bool, err error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", false, err
	}
	program = filepath.Join(base, "ballast-e2e", "modelexpress-server-"+version+"-"+fingerprint(version), "bin", "modelexpress-server")
	_, err = os.Stat(program)
	return program, err == nil, nil
}

// Install returns the program of a release, built if it is not in the user's cache
// directory yet (some seven minutes on two cores), with what it does told on w. Without
// cargo or protoc it returns ErrNoTools, and an older release is built only if
// $MODEL_EXPRESS_TEST_OLD asks for that.
func Install(ctx context.Context, w io.Writer, version string) (program string, err error) {
	program, there, err := where(version)
	if there || err != nil {
		return program, err
	}
	if version != Newest && os.Getenv("MODEL_EXPRESS_TEST_OLD") == "" {
		return "", ErrNotAskedFor
	}
	dir := filepath.Dir(filepath.Dir(program))
	base := filepath.Dir(dir)
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(base, "modelexpress.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, there, _ := where(version); there { // whoever held the lock built it
		return program, nil
	}
	building := filepath.Join(base, ".building-modelexpress")
	defer os.RemoveAll(building)
	return program, build(ctx, w, version, dir, building)
}

// fingerprint names how a server is built.
func fingerprint(version string) string {
	sum := sha256.Sum256([]byte(features[version]))
	return hex.EncodeToString(sum[:4])
}

func build(ctx context.Context, w io.Writer, version, dir, building string) error {
	cargo, err := exec.LookPath("cargo")
	if err != nil {
		home, _ := os.UserHomeDir()
		cargo, err = exec.LookPath(filepath.Join(home, ".cargo", "bin", "cargo"))
	}
	_, without := exec.LookPath("protoc")
	if err != nil || without != nil {
		return ErrNoTools
	}
	fmt.Fprintf(w, "building modelexpress-server %s\n", version)
	began := time.Now()
	cmd := exec.CommandContext(ctx, cargo, "install", "modelexpress-server", "--version", version, "--locked",
		"--no-default-features", "--features", features[version], "--root", filepath.Join(building, "root"))
	cmd.Env = append(os.Environ(), "CARGO_TARGET_DIR="+filepath.Join(building, "target"))
	// Interrupted, it ends the compilers that it started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build modelexpress-server %s: %w\n%s", version, errors.Join(ctx.Err(), err), said)
	}
	if err := os.Rename(filepath.Join(building, "root"), dir); err != nil {
		return err
	}
	fmt.Fprintf(w, "built modelexpress-server %s in %s\n", version, time.Since(began).Round(time.Second))
	return nil
}
