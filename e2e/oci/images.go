package oci

import (
	"bytes"
	"context"
	"encoding/pem"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is who Ballast's image runs as unless a pod says otherwise: the owner of the
// cache directory.
const user = "2000000000:2000000000"

// Certificates returns Mozilla's roots as PEM, and how many. It leaves out those
// that Mozilla trusts only for certificates issued before some date, which PEM
// cannot say.
func Certificates() ([]byte, int) {
	var out bytes.Buffer
	n := 0
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a Buffer takes all
		n++
	}
	return out.Bytes(), n
}

// Ballast makes Ballast's image of one architecture: the certificates, which rarely
// change, below /ballast, the given binary, which always does.
func Ballast(arch, version, binary string, at time.Time) (v1.Image, error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	certificates, _ := Certificates()
	return build(arch, at, v1.Config{
		Entrypoint: []string{"/ballast"},
		User:       user,
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":       "ballast",
			"org.opencontainers.image.description": "Node-local cache of verified Hugging Face snapshots, mounted into pods",
			"org.opencontainers.image.source":      "https://github.com/ballast-csi/ballast",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     version,
		},
	}, layer{"CA certificates of Mozilla (golang.org/x/crypto/x509roots)", []file{
		{"etc/", 0o755, nil}, {"etc/ssl/", 0o755, nil}, {"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, certificates}}},
		layer{"ballast " + version, []file{{"ballast", 0o755, program}}})
}

// PodReference is the name of e2e/pod's image on a node.
const PodReference = "docker.io/library/e2e-pod:1"

// Pod makes the image of e2e/pod, the given binary. Without arguments it is a pod's
// sandbox; a container's args name another of its subcommands. It runs as root.
func Pod(arch, binary string, at time.Time) (v1.Image, error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	return build(arch, at, v1.Config{
		Entrypoint: []string{"/pod"},
		Cmd:        []string{"pause"},
		WorkingDir: "/",
	}, layer{"pod", []file{{"pod", 0o755, program}}})
}

// WriteBallast compiles Ballast from the module in directory module for this
// machine's architecture, stamped with version, and writes its image to path, to be
// imported as reference.
func WriteBallast(ctx context.Context, path, reference, module, version string) error {
	program := Program{Module: module, Package: "./cmd/ballast", Version: version}
	return write(ctx, path, reference, program, func(binary string) (v1.Image, error) {
		return Ballast(runtime.GOARCH, version, binary, epoch)
	})
}

// WritePod does the same for e2e/pod. module is the directory of e2e's module.
func WritePod(ctx context.Context, path, reference, module string) error {
	return write(ctx, path, reference, Program{Module: module, Package: "./pod"}, func(binary string) (v1.Image, error) {
		return Pod(runtime.GOARCH, binary, epoch)
	})
}

// epoch is the time of all that has no better one.
var epoch = time.Unix(0, 0).UTC()

func write(ctx context.Context, path, reference string, program Program, image func(binary string) (v1.Image, error)) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "program")
	if err := program.Compile(ctx, runtime.GOARCH, binary); err != nil {
		return err
	}
	img, err := image(binary)
	if err != nil {
		return err
	}
	index, err := Index(img)
	if err != nil {
		return err
	}
	return Write(path, reference, index, epoch)
}
