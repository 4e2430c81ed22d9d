package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// built builds the image into a new directory, and returns that.
func built(t *testing.T, push string) string {
	t.Helper()
	out := t.TempDir()
	o := options{module: "../..", pkg: "./cmd/ballast", out: out, version: "v0-test", epoch: time.Unix(0, 0).UTC(), push: push}
	var said bytes.Buffer
	if err := run(t.Context(), o, &said); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", said.String())
	return out
}

// archived reads ballast-image.tar back as an OCI layout.
func archived(t *testing.T, out string) v1.ImageIndex {
	t.Helper()
	f, err := os.Open(filepath.Join(out, "ballast-image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
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
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("the archive holds %d images, error %v; want one index", len(m.Manifests), err)
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func TestImageTwiceIsTheSameImage(t *testing.T) {
	var archives [2][]byte
	for i := range archives {
		var err error
		if archives[i], err = os.ReadFile(filepath.Join(built(t, ""), "ballast-image.tar")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Fatal("two builds of the same source differ")
	}
}

func TestImageHoldsAStaticBinaryAndCertificatesAndNothingElse(t *testing.T) {
	out := built(t, "")
	index := archived(t, out)
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	if len(m.Manifests) != len(machines) {
		t.Fatalf("index of %d images; want %d", len(m.Manifests), len(machines))
	}
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkConfig(t, img, d.Platform.Architecture)
		files := flatten(t, img)
		binary, bundle := files["ballast"], files["etc/ssl/certs/ca-certificates.crt"]
		if len(files) != 2 || binary == nil || bundle == nil {
			t.Errorf("%s: the image holds %d files; want the binary and the certificates", d.Platform, len(files))
			continue
		}
		checkStatic(t, binary, machines[d.Platform.Architecture])
		if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(bundle) {
			t.Errorf("%s: no certificate in the bundle", d.Platform)
		} else if n := bytes.Count(bundle, []byte("BEGIN CERTIFICATE")); n < 100 {
			t.Errorf("%s: %d certificates; Mozilla has more", d.Platform, n)
		}
		onDisk, err := os.ReadFile(filepath.Join(out, "image", d.Platform.Architecture, "ballast"))
		if err != nil || !bytes.Equal(onDisk, binary) {
			t.Errorf("%s: the Dockerfile's binary is not the image's (%v)", d.Platform, err)
		}
	}
}

func checkConfig(t *testing.T, img v1.Image, arch string) {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.OS != "linux" || cfg.Architecture != arch || cfg.Config.User != "65536:65536" || strings.Join(cfg.Config.Entrypoint, " ") != "/ballast" ||
		cfg.Config.Labels["org.opencontainers.image.version"] != "v0-test" || cfg.Created.Unix() != 0 {
		t.Errorf("%s: config %+v", arch, cfg)
	}
}

func checkStatic(t *testing.T, binary []byte, machine elf.Machine) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != machine {
		t.Errorf("binary for %s; want %s", f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s: the binary needs a dynamic linker, which the image does not have", machine)
		}
	}
	if home, err := os.Getwd(); err == nil && bytes.Contains(binary, []byte(filepath.Dir(filepath.Dir(home)))) {
		t.Errorf("%s: the binary names a directory of the machine that built it", machine)
	}
}

// flatten returns the image's plain files; every entry must be root's and without
// special bits.
func flatten(t *testing.T, img v1.Image) map[string][]byte {
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
			if h.Typeflag == tar.TypeReg {
				if files[h.Name], err = io.ReadAll(tr); err != nil {
					t.Fatal(err)
				}
			}
		}
		rc.Close()
	}
	return files
}

func TestImagePushedToARegistryIsTheSameIndex(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	to := strings.TrimPrefix(server.URL, "http://") + "/ballast/ballast:v0-test"
	index := archived(t, built(t, to))
	want, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := got.Digest(); err != nil || digest != want {
		t.Fatalf("pushed %s; want %s (%v)", digest, want, err)
	}
}

func TestSourceDateIsSecondsOrRefused(t *testing.T) {
	if at, err := sourceDate("1700000000"); err != nil || at.Unix() != 1700000000 {
		t.Errorf("got %v, %v", at, err)
	}
	if at, err := sourceDate(""); err != nil || at.Unix() != 0 {
		t.Errorf("without one: got %v, %v", at, err)
	}
	if _, err := sourceDate("yesterday"); err == nil {
		t.Error("\"yesterday\" was taken")
	}
}
