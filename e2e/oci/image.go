// Package oci makes container images from files, without a registry or a container
// engine, and writes them as archives that "ctr -n k8s.io images import" takes.
//
// It owns what our images are: Ballast's own (Ballast) and the one that test pods and
// pod sandboxes run (Pod). The same files and time give the same digest on any
// machine. It must never know what an image is used for.
package oci

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// file is an entry of a layer. Directories come first, each before what is in it.
type file struct {
	name string
	mode int64
	data []byte // nil: a directory
}

// layer is files that change together. what goes into the image's history.
type layer struct {
	what  string
	files []file
}

// build makes the image of one architecture for Linux from layers, lowest first.
func build(arch string, at time.Time, config v1.Config, layers ...layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: at},
		Config: config,
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		packed, err := pack(l.files, at)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.what, err)
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: packed, MediaType: types.OCILayer, History: v1.History{Created: v1.Time{Time: at}, CreatedBy: l.what}})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// pack packs files, owned by root, with one time.
func pack(files []file, at time.Time) (v1.Layer, error) {
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

// Index joins images, each of another architecture, under one digest.
func Index(images ...v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			MediaType: types.OCIManifestSchema1,
			Platform:  &v1.Platform{OS: config.OS, Architecture: config.Architecture}}})
	}
	return index, nil
}
