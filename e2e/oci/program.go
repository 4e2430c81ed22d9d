package oci

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Program is a Go command that goes into an image.
type Program struct {
	Module  string // directory of its module
	Package string // relative to Module, as "./cmd/ballast"
	Version string // put into its main.version, if it has one
}

// Compile writes the static binary for Linux on arch, a GOARCH: no cgo, no paths of
// this machine, no VCS stamp (the version says it).
func (p Program) Compile(ctx context.Context, arch, binary string) error {
	abs, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+p.Version, "-o", abs, p.Package)
	cmd.Dir = p.Module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s for %s: %w\n%s", p.Package, arch, err, text)
	}
	return nil
}
