package oci

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Write writes index to path as a tar of an OCI image layout (image-spec,
// image-layout.md), in a fixed order and with the one time at. containerd imports it
// as reference, which must be in full, with registry and tag: a pod whose image is
// "ballast:v1" asks for "docker.io/library/ballast:v1". What is attached to index has
// no name; it is found by what it is attached to.
func Write(path, reference string, index v1.ImageIndex, at time.Time, attached ...v1.Image) error {
	tag, err := name.NewTag(reference, name.StrictValidation)
	if err != nil {
		return err
	}
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
		"org.opencontainers.image.ref.name": tag.TagStr(),
		"io.containerd.image.name":          reference,
	})); err != nil {
		return fmt.Errorf("lay out %s: %w", reference, err)
	}
	for _, a := range attached {
		if err := l.AppendImage(a); err != nil {
			return fmt.Errorf("lay out what is attached to %s: %w", reference, err)
		}
	}
	out, err := os.CreateTemp(filepath.Dir(path), "archive-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if err := writeTar(out, os.DirFS(dir), at); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
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
