// Command image builds the container image of Ballast for every architecture we
// publish: a static binary, the CA certificates of Mozilla, and nothing else. The
// same commit and Go toolchain give the same digest on any machine.
//
// It writes, below -out (default build):
//
//	image/<arch>/{ballast,ca-certificates.crt}   the files, for the Dockerfile too
//	ballast-image.tar                            an OCI layout with one index, for
//	                                             "ctr images import", skopeo, crane,
//	                                             and the next, attached to the index
//	ballast.cdx.json                             what the image is made of (CycloneDX)
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
	materials := newBill(o.version, o.epoch)
	index, err := buildIndex(ctx, o, materials, w)
	if err != nil {
		return err
	}
	document, err := materials.document()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.out, "ballast.cdx.json"), document, 0o644); err != nil {
		return err
	}
	sbom, err := oci.Attach(index, sbomKind, document)
	if err != nil {
		return err
	}
	archive := filepath.Join(o.out, "ballast-image.tar")
	if err := oci.Write(archive, "docker.io/library/ballast:"+o.version, index, o.epoch, sbom); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "index  %s  %s  version %s\n", digest, archive, o.version)
	if digest, err = sbom.Digest(); err != nil {
		return err
	}
	fmt.Fprintf(w, "SBOM   %s  %d components\n", digest, len(materials.components))
	if o.push == "" {
		return nil
	}
	return push(ctx, o.push, index, sbom, w)
}

// buildIndex builds the image of each architecture, and adds what it is made of to
// materials.
func buildIndex(ctx context.Context, o options, materials *bill, w io.Writer) (v1.ImageIndex, error) {
	certificates, roots := oci.Certificates()
	if err := materials.addCertificates(certificates); err != nil {
		return nil, err
	}
	fmt.Fprintf(w, "%d CA certificates\n", roots)
	var images []v1.Image
	for _, arch := range architectures {
		dir := filepath.Join(o.out, "image", arch)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, "ca-certificates.crt"), certificates, 0o644); err != nil {
			return nil, err
		}
		binary := filepath.Join(dir, "ballast")
		program := oci.Program{Module: o.module, Package: "./cmd/ballast", Version: o.version}
		if err := program.Compile(ctx, arch, binary); err != nil {
			return nil, err
		}
		if err := materials.addBinary(arch, binary); err != nil {
			return nil, fmt.Errorf("what the binary for %s is made of: %w", arch, err)
		}
		img, err := oci.Ballast(arch, o.version, binary, o.epoch)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", arch, err)
		}
		if err := describe(w, arch, binary, img); err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return oci.Index(images...)
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

// push pushes the index under its name, and what is attached to it.
func push(ctx context.Context, to string, index v1.ImageIndex, attached v1.Image, w io.Writer) error {
	ref, err := name.ParseReference(to)
	if err != nil {
		return fmt.Errorf("-push: %w", err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	if err := remote.WriteIndex(ref, index, options...); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	digest, err := attached.Digest()
	if err != nil {
		return err
	}
	if err := remote.Write(ref.Context().Digest(digest.String()), attached, options...); err != nil {
		return fmt.Errorf("push what is attached to %s: %w", ref, err)
	}
	fmt.Fprintf(w, "pushed %s\n", ref)
	return nil
}
