// Command image builds the container image of Ballast for every architecture we
// publish: a static binary, the CA certificates of Mozilla, and nothing else. The
// same commit and Go toolchain give the same digest on any machine.
//
// It writes, below -out (default build):
//
//	image/<arch>/{ballast,ca-certificates.crt}   the files, for the Dockerfile too
//	ballast-image.tar                            an OCI layout with one index, for
//	                                             "ctr images import", skopeo, crane
package main

import (
	"archive/tar"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// architectures are those of GOARCH that we publish.
var architectures = []string{"amd64", "arm64"}

// options are the command's flags.
type options struct {
	module  string // directory of the product's module
	pkg     string // the command to build, relative to module
	out     string // directory to write to
	version string // stamped into the binary and the labels
	epoch   time.Time
	push    string // reference to push to; empty: none
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := options{pkg: "./cmd/ballast"}
	flag.StringVar(&o.module, "module", ".", "directory of Ballast's Go module")
	flag.StringVar(&o.out, "out", "build", "directory to write to")
	flag.StringVar(&o.version, "version", "dev", "version to stamp")
	flag.StringVar(&o.push, "push", "", "also push to this reference, with docker's credentials")
	flag.Parse()
	var err error
	if o.epoch, err = sourceDate(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		log.Fatal(err)
	}
	if err := run(ctx, o, os.Stdout); err != nil {
		log.Fatalf("image: %v", err)
	}
}

// sourceDate reads SOURCE_DATE_EPOCH, seconds since 1970 (reproducible-builds.org).
func sourceDate(s string) (time.Time, error) {
	if s == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: must be seconds since 1970", s)
	}
	return time.Unix(n, 0).UTC(), nil
}

// run builds the binaries and the image, and tells what it made on w.
func run(ctx context.Context, o options, w io.Writer) error {
	bundle, roots := certificates()
	images := map[string]v1.Image{}
	for _, arch := range architectures {
		dir := filepath.Join(o.out, "image", arch)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		binary := filepath.Join(dir, "ballast")
		if err := compile(ctx, o, arch, binary); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "ca-certificates.crt"), bundle, 0o644); err != nil {
			return err
		}
		img, err := assemble(o, arch, binary, bundle)
		if err != nil {
			return fmt.Errorf("image for %s: %w", arch, err)
		}
		if err := describe(w, arch, binary, img); err != nil {
			return err
		}
		images[arch] = img
	}
	index, err := indexOf(images)
	if err != nil {
		return err
	}
	archive := filepath.Join(o.out, "ballast-image.tar")
	if err := writeArchive(archive, index, o); err != nil {
		return fmt.Errorf("write %s: %w", archive, err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "index  %s  %d CA certificates  %s  version %s\n", digest, roots, archive, o.version)
	if o.push == "" {
		return nil
	}
	return pushIndex(ctx, o.push, index, w)
}

// compile builds the static binary: no cgo, no paths of this machine, no VCS stamp
// (the version says it).
func compile(ctx context.Context, o options, arch, binary string) error {
	abs, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+o.version, "-o", abs, o.pkg)
	cmd.Dir = o.module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build for %s: %w\n%s", arch, err, text)
	}
	return nil
}

func describe(w io.Writer, arch, binary string, img v1.Image) error {
	stat, err := os.Stat(binary)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	var packed int64
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			return err
		}
		packed += n
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s  %s  binary %.1f MB, layers compressed %.1f MB\n", arch, digest, float64(stat.Size())/1e6, float64(packed)/1e6)
	return nil
}

// writeArchive writes index as a tar of an OCI image layout (image-spec,
// image-layout.md), in a fixed order and with fixed times.
func writeArchive(path string, index v1.ImageIndex, o options) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), "layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := l.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": o.version,
		"io.containerd.image.name":          "docker.io/library/ballast:" + o.version,
	})); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(path), "archive-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if err := writeTar(out, os.DirFS(dir), o.epoch); err != nil {
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), path)
}

// writeTar writes the plain files of tree in lexical order.
func writeTar(w io.Writer, tree fs.FS, at time.Time) error {
	tw := tar.NewWriter(w)
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		stat, err := d.Info()
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: stat.Size(), ModTime: at, Format: tar.FormatPAX}); err != nil {
			return err
		}
		f, err := tree.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(tw, f)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func pushIndex(ctx context.Context, to string, index v1.ImageIndex, w io.Writer) error {
	ref, err := name.ParseReference(to)
	if err != nil {
		return fmt.Errorf("-push: %w", err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	fmt.Fprintf(w, "pushed %s\n", ref)
	return nil
}
