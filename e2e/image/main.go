// Command image builds the container image of Ballast for every architecture we
// publish: a static binary, the CA certificates of Mozilla, and nothing else. The
// same commit and Go toolchain give the same digest on any machine.
//
// It writes, below -out (default build):
//
//	image/<arch>/{ballast,ca-certificates.crt}   the files, for the Dockerfile too
//	ballast-image.tar                            an OCI layout with one index, for
//	                                             "ctr images import", skopeo, crane
//
// With -pod it writes e2e-pod-image.tar instead: what the pods of the scenarios in
// e2e/cluster run, for this machine's architecture.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ballast-csi/ballast/e2e/oci"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// architectures are those of GOARCH that we publish.
var architectures = []string{"amd64", "arm64"}

// options are the command's flags.
type options struct {
	module  string // directory of the product's module
	out     string // directory to write to
	version string // stamped into the binary and the labels
	epoch   time.Time
	push    string // reference to push to; empty: none
	pod     bool
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.StringVar(&o.module, "module", ".", "directory of Ballast's Go module")
	flag.StringVar(&o.out, "out", "build", "directory to write to")
	flag.StringVar(&o.version, "version", "dev", "version to stamp")
	flag.StringVar(&o.push, "push", "", "also push to this reference, with docker's credentials")
	flag.BoolVar(&o.pod, "pod", false, "build the image of the scenarios' pods instead")
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
	if o.pod {
		archive := filepath.Join(o.out, "e2e-pod-image.tar")
		fmt.Fprintf(w, "%s  %s\n", oci.PodReference, archive)
		return oci.WritePod(ctx, archive, oci.PodReference, filepath.Join(o.module, "e2e"))
	}
	certificates, roots := oci.Certificates()
	program := oci.Program{Module: o.module, Package: "./cmd/ballast", Version: o.version}
	var images []v1.Image
	for _, arch := range architectures {
		dir := filepath.Join(o.out, "image", arch)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		binary := filepath.Join(dir, "ballast")
		if err := program.Compile(ctx, arch, binary); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "ca-certificates.crt"), certificates, 0o644); err != nil {
			return err
		}
		img, err := oci.Ballast(arch, o.version, binary, o.epoch)
		if err != nil {
			return fmt.Errorf("image for %s: %w", arch, err)
		}
		if err := describe(w, arch, binary, img); err != nil {
			return err
		}
		images = append(images, img)
	}
	index, err := oci.Index(images...)
	if err != nil {
		return err
	}
	archive := filepath.Join(o.out, "ballast-image.tar")
	if err := oci.Write(archive, "docker.io/library/ballast:"+o.version, index, o.epoch); err != nil {
		return err
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
