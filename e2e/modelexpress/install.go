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

// Versions are the releases that are run: the newest, and the last one that ignores which
// revision is asked for.
var Versions = []string{"0.7.0", "0.5.1"}

// features are the least that runs without a Redis: TLS is for downloads.
const features = "tls-rustls,memory-backend"

// ErrNoTools says that this machine cannot build the server.
var ErrNoTools = errors.New("building modelexpress-server needs cargo (Rust 1.90 or newer, rustup.rs) and protoc (apt-get install protobuf-compiler)")

// Install returns the program of each version, built if it is not in the user's cache
// directory yet (some seven minutes for the first on two cores), with what it does told on
// w. Without cargo or protoc it returns ErrNoTools.
func Install(ctx context.Context, w io.Writer, versions ...string) (programs []string, err error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	base = filepath.Join(base, "ballast-e2e")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(base, "modelexpress.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	// The releases share most of what they are made of. Nothing of that is kept.
	target := filepath.Join(base, ".building-modelexpress")
	defer os.RemoveAll(target)
	for _, version := range versions {
		dir := filepath.Join(base, "modelexpress-server-"+version+"-"+fingerprint())
		program := filepath.Join(dir, "bin", "modelexpress-server")
		if _, err := os.Stat(program); err != nil {
			if err := build(ctx, w, version, dir, target); err != nil {
				return nil, err
			}
		}
		programs = append(programs, program)
	}
	return programs, nil
}

// fingerprint names how a server is built.
func fingerprint() string {
	sum := sha256.Sum256([]byte(features))
	return hex.EncodeToString(sum[:4])
}

func build(ctx context.Context, w io.Writer, version, dir, target string) error {
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
		"--no-default-features", "--features", features, "--root", filepath.Join(target, version))
	cmd.Env = append(os.Environ(), "CARGO_TARGET_DIR="+filepath.Join(target, "target"))
	// Interrupted, it ends the compilers that it started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build modelexpress-server %s: %w\n%s", version, errors.Join(ctx.Err(), err), said)
	}
	if err := os.Rename(filepath.Join(target, version), dir); err != nil {
		return err
	}
	fmt.Fprintf(w, "built modelexpress-server %s in %s\n", version, time.Since(began).Round(time.Second))
	return nil
}
