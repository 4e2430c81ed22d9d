// Package ocitest reads back what package oci writes.
package ocitest

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Archived reads the archive at path as an OCI layout, which must be of one index, and
// of what is attached to that.
func Archived(t *testing.T, path string) (v1.ImageIndex, []v1.Image) {
	t.Helper()
	top, err := layout.ImageIndexFromPath(unpacked(t, path))
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil || len(m.Manifests) == 0 {
		t.Fatalf("the archive holds %v, error %v", m, err)
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	var attached []v1.Image
	for _, d := range m.Manifests[1:] {
		img, err := top.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		subject := Manifest(t, img).Subject
		if subject == nil || subject.Digest != m.Manifests[0].Digest {
			t.Fatalf("the archive holds %s, of %v; want one index and what is attached to it", d.Digest, subject)
		}
		attached = append(attached, img)
	}
	return index, attached
}

// Manifest returns the image's manifest.
func Manifest(t *testing.T, img v1.Image) *v1.Manifest {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// unpacked unpacks the archive at path into a new directory, and returns that.
func unpacked(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Files returns all that is in the image, a directory without content. Every entry must
// be root's, a plain file or a directory, without special bits, and there once.
func Files(t *testing.T, img v1.Image) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for tr := tar.NewReader(rc); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Uid != 0 || h.Gid != 0 || h.Mode&^0o755 != 0 || (h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir) {
				t.Errorf("%s: type %c, mode %o, owner %d:%d", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid)
			}
			if _, twice := files[h.Name]; twice {
				t.Errorf("%s: there twice", h.Name)
			}
			if files[h.Name], err = io.ReadAll(tr); err != nil {
				t.Fatal(err)
			}
		}
		rc.Close()
	}
	return files
}
