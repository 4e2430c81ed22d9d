package node

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
	"runtime"
	"strings"
	"time"
)

// Versions of what runs on the node. Kubernetes' own, etcd's and kubectl's are in
// ../kubernetes/go.mod.
const (
	containerdVersion = "v2.4.2"
	// Before 1.2 runc left a read-only bind mount read-only when it was asked for a
	// writable one; only later ones show what a driver must withstand.
	runcVersion = "v1.4.3"
	cniVersion  = "v1.9.1"
)

// Tools are the programs that a node is made of, built from the Go module proxy.
// Each lies in a directory named by what it was built from, so a change of versions
// builds anew and an unchanged one costs nothing.
type Tools struct {
	kubernetes string // the one binary of ../kubernetes
	containerd string // directory of containerd, its shim, and ctr
	runc       string
	cni        string // directory of the CNI plugins
}

// packages are the commands that the node needs besides Go, with the Debian packages
// that bring them.
var packages = []struct{ probe, name string }{
	{"ip", "iproute2"},
	{"mkfs.ext4", "e2fsprogs"},
	{"mount", "mount"},
	{"git", "git"},
	{"gcc", "gcc"},
	{"pkg-config", "pkg-config"},
	{"/usr/include/seccomp.h", "libseccomp-dev"},
	{"/usr/include/stdlib.h", "libc6-dev"},
}

// missing reports the Debian packages that this machine lacks, in an error that has
// the command that installs them.
func missing() error {
	var lacks []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.probe); err == nil {
			continue
		}
		if _, err := os.Stat(p.probe); filepath.IsAbs(p.probe) && err == nil {
			continue
		}
		lacks = append(lacks, p.name)
	}
	if lacks == nil {
		return nil
	}
	list := strings.Join(lacks, " ")
	return fmt.Errorf("this machine lacks %s; install with: apt-get update && apt-get install --no-install-recommends -y %s", list, list)
}

// Build builds what is not in the user's cache directory yet, with what it does told
// on w. kubernetes is the directory of the Kubernetes module.
func Build(ctx context.Context, kubernetes string, w io.Writer) (Tools, error) {
	if err := missing(); err != nil {
		return Tools{}, err
	}
	cache, err := cacheDir()
	if err != nil {
		return Tools{}, err
	}
	pinned, err := fingerprint(kubernetes)
	if err != nil {
		return Tools{}, err
	}
	b := builder{cache: cache, out: w}
	t := Tools{
		kubernetes: b.build(ctx, "kubernetes-"+pinned, func(dir string) *exec.Cmd {
			cmd := static(ctx, "build", "-o", filepath.Join(dir, "kubernetes"), ".")
			cmd.Dir = kubernetes
			return cmd
		}),
		containerd: b.build(ctx, "containerd-"+containerdVersion, func(dir string) *exec.Cmd {
			return installed(static(ctx, "install",
				"github.com/containerd/containerd/v2/cmd/containerd@"+containerdVersion,
				"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@"+containerdVersion,
				"github.com/containerd/containerd/v2/cmd/ctr@"+containerdVersion), dir)
		}),
		runc: b.build(ctx, "runc-"+runcVersion, func(dir string) *exec.Cmd {
			cmd := installed(static(ctx, "install", "-tags", "seccomp", "github.com/opencontainers/runc@"+runcVersion), dir)
			cmd.Env = append(cmd.Env, "CGO_ENABLED=1") // it enters namespaces in C
			return cmd
		}),
		cni: b.build(ctx, "cni-"+cniVersion, func(dir string) *exec.Cmd {
			const plugins = "github.com/containernetworking/plugins/plugins/"
			return installed(static(ctx, "install", plugins+"main/bridge@"+cniVersion, plugins+"main/loopback@"+cniVersion,
				plugins+"ipam/host-local@"+cniVersion), dir)
		}),
	}
	t.kubernetes = filepath.Join(t.kubernetes, "kubernetes")
	t.runc = filepath.Join(t.runc, "runc")
	return t, b.err
}

// Kubectl is the command that runs kubectl.
func (t Tools) Kubectl() []string { return []string{t.kubernetes, "kubectl"} }

// cacheDir is where tools are kept between runs, below the user's cache directory.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "ballast-e2e"), nil
}

// building begins the names of what is not finished.
const building = ".building-"

// builder builds one tool after another, until one fails: each uses every core.
type builder struct {
	cache string
	out   io.Writer
	err   error
}

// build returns the directory of the tool called name, which command fills.
func (b *builder) build(ctx context.Context, name string, command func(dir string) *exec.Cmd) string {
	dir := filepath.Join(b.cache, name+"-"+runtime.Version())
	if _, err := os.Stat(dir); err == nil || b.err != nil {
		return dir
	}
	fmt.Fprintf(b.out, "building %s\n", name)
	b.err = func() error {
		if err := os.MkdirAll(b.cache, 0o755); err != nil {
			return err
		}
		b.removeStale()
		partial, err := os.MkdirTemp(b.cache, building)
		if err != nil {
			return err
		}
		defer os.RemoveAll(partial)
		cmd := command(partial)
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, errors.Join(ctx.Err(), err), said)
		}
		if err := os.Chmod(partial, 0o755); err != nil {
			return err
		}
		// Whoever else builds the same at the same time has the same result.
		if err := os.Rename(partial, dir); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return nil
	}()
	return dir
}

// removeStale removes what builds left that were killed. None takes a day.
func (b *builder) removeStale() {
	partial, _ := filepath.Glob(filepath.Join(b.cache, building+"*"))
	for _, path := range partial {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(path) // it costs nothing but room
		}
	}
}

// static is a go command whose programs need no library, unless they are told to.
func static(ctx context.Context, verb string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", append([]string{verb, "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	// Interrupted, it ends the compilers that it started and removes its own files.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// installed has cmd, a go install, put its programs into dir.
func installed(cmd *exec.Cmd, dir string) *exec.Cmd {
	cmd.Env = append(cmd.Env, "GOBIN="+dir)
	return cmd
}

// fingerprint names what a module is built from.
func fingerprint(dir string) (string, error) {
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(content), content)
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}
