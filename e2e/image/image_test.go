package main

import (
	"bytes"
	"crypto/x509"
	"debug/elf"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/e2e/oci/ocitest"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// built builds the image into a new directory, and returns that.
func built(t *testing.T, push string) string {
	t.Helper()
	out := t.TempDir()
	o := options{module: "../..", out: out, version: "v0-test", epoch: time.Unix(0, 0).UTC(), push: push}
	var said bytes.Buffer
	if err := run(t.Context(), o, &said); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", said.String())
	return out
}

// archived returns the index that was built and what is attached to it.
func archived(t *testing.T, out string) (v1.ImageIndex, []v1.Image) {
	t.Helper()
	return ocitest.Archived(t, filepath.Join(out, "ballast-image.tar"))
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
	index, _ := archived(t, out)
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
		files := ocitest.Files(t, img)
		holds := slices.Sorted(maps.Keys(files))
		if want := []string{"ballast", "etc/", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt"}; !slices.Equal(holds, want) {
			t.Errorf("%s: the image holds %q; want %q", d.Platform, holds, want)
			continue
		}
		binary, bundle := files["ballast"], files["etc/ssl/certs/ca-certificates.crt"]
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
	if cfg.OS != "linux" || cfg.Architecture != arch || cfg.Config.User != "2000000000:2000000000" || strings.Join(cfg.Config.Entrypoint, " ") != "/ballast" ||
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

func TestImagePushedToARegistryIsTheSameIndexWithTheSameSBOM(t *testing.T) {
	quiet := registry.Logger(log.New(io.Discard, "", 0))
	for name, server := range map[string]http.Handler{
		"old registry":                  registry.New(quiet),
		"registry that lists referrers": registry.New(quiet, registry.WithReferrersSupport(true)),
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(server)
			defer server.Close()
			checkPushed(t, strings.TrimPrefix(server.URL, "http://")+"/ballast/ballast:v0-test")
		})
	}
}

func checkPushed(t *testing.T, to string) {
	t.Helper()
	index, attached := archived(t, built(t, to))
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
	sbom, err := attached[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	referrers, err := remote.Referrers(ref.Context().Digest(want.String()), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := referrers.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Digest != sbom {
		t.Fatalf("referrers of the image are %v; want the SBOM, %s (%v)", m, sbom, err)
	}
	pushed, err := remote.Image(ref.Context().Digest(sbom.String()), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, pushed), content(t, attached[0])) {
		t.Error("another SBOM was pushed")
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
