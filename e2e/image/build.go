package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is who the image runs as unless a pod says otherwise: outside what a pod's
// own user namespace maps, and the owner of the cache directory.
const user = "65536:65536"

// certificates returns Mozilla's roots as PEM, and how many. It leaves out those
// that Mozilla trusts only for certificates issued before some date, which PEM
// cannot say.
func certificates() ([]byte, int) {
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

// file is an entry of a layer. Directories come first, each before what is in it.
type file struct {
	name string
	mode int64
	data []byte // nil: a directory
}

// assemble makes the image of one architecture: the certificates, which rarely
// change, below the binary, which always does.
func assemble(o options, arch, binary string, bundle []byte) (v1.Image, error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: o.epoch},
		Config: v1.Config{
			Entrypoint: []string{"/ballast"},
			User:       user,
			WorkingDir: "/",
			Labels: map[string]string{
				"org.opencontainers.image.title":       "ballast",
				"org.opencontainers.image.description": "Node-local cache of verified Hugging Face snapshots, mounted into pods",
				"org.opencontainers.image.source":      "https://github.com/ballast-csi/ballast",
				"org.opencontainers.image.licenses":    "Apache-2.0",
				"org.opencontainers.image.version":     o.version,
			},
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range []struct {
		what  string
		files []file
	}{
		{"CA certificates of Mozilla (golang.org/x/crypto/x509roots)", []file{
			{"etc/", 0o755, nil}, {"etc/ssl/", 0o755, nil}, {"etc/ssl/certs/", 0o755, nil},
			{"etc/ssl/certs/ca-certificates.crt", 0o644, bundle}}},
		{"ballast " + o.version, []file{{"ballast", 0o755, program}}},
	} {
		layer, err := layerOf(l.files, o.epoch)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.what, err)
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{Created: v1.Time{Time: o.epoch}, CreatedBy: l.what}})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// layerOf packs files, owned by root, with one time.
func layerOf(files []file, at time.Time) (v1.Layer, error) {
	var packed bytes.Buffer
	tw := tar.NewWriter(&packed)
	for _, f := range files {
		kind := byte(tar.TypeReg)
		if f.data == nil {
			kind = tar.TypeDir
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: kind, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: at, Format: tar.FormatPAX}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// indexOf joins the images of all architectures under one digest.
func indexOf(images map[string]v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range architectures {
		img, ok := images[arch]
		if !ok {
			return nil, fmt.Errorf("no image for %s", arch)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img,
			Descriptor: v1.Descriptor{MediaType: types.OCIManifestSchema1, Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return index, nil
}
