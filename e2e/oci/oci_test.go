package oci_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/e2e/oci"
	"github.com/ballast-csi/ballast/e2e/oci/ocitest"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// only returns the archive's one image, which must be for this machine, and its
// configuration.
func only(t *testing.T, archive string) (v1.Image, v1.Config) {
	t.Helper()
	index, attached := ocitest.Archived(t, archive)
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || attached != nil {
		t.Fatalf("%d images, error %v, attached %v; want this machine's only", len(m.Manifests), err, attached)
	}
	if p := m.Manifests[0].Platform; p == nil || p.OS != "linux" || p.Architecture != runtime.GOARCH {
		t.Errorf("platform %v", p)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Architecture != runtime.GOARCH {
		t.Errorf("made for %s/%s; containerd would not import it", config.OS, config.Architecture)
	}
	return img, config.Config
}

// program puts one of the image's files where it can be run.
func program(t *testing.T, img v1.Image, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, ocitest.Files(t, img)[name], 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBallastIsWrittenWithTheVersionItIsGiven(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "ballast.tar")
	if err := oci.WriteBallast(t.Context(), archive, "docker.io/library/ballast:v7", "../..", "v7-test"); err != nil {
		t.Fatal(err)
	}
	img, config := only(t, archive)
	if config.User != "2000000000:2000000000" || !slices.Equal(config.Entrypoint, []string{"/ballast"}) {
		t.Errorf("config %+v", config)
	}
	said, err := exec.CommandContext(t.Context(), program(t, img, "ballast"), "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(said), "v7-test") {
		t.Errorf("its version is %q, %v", said, err)
	}
}

func TestPodImageIsASandboxUnlessToldOtherwise(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "pod.tar")
	if err := oci.WritePod(t.Context(), archive, "docker.io/library/pod:e2e", ".."); err != nil {
		t.Fatal(err)
	}
	img, config := only(t, archive)
	if !slices.Equal(config.Entrypoint, []string{"/pod"}) || !slices.Equal(config.Cmd, []string{"pause"}) {
		t.Errorf("config %+v", config)
	}
	if said, err := exec.CommandContext(t.Context(), program(t, img, "pod"), "true").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

func TestArchiveIsNamedAsContainerdWillImportIt(t *testing.T) {
	dir := t.TempDir()
	archive := filepath.Join(dir, "pod.tar")
	for reference, ok := range map[string]bool{
		"docker.io/library/pod:v1": true,
		"docker.io/library/pod":    false, // a tag must tell versions apart
		"pod:v1":                   false, // a pod's "pod:v1" is another name
	} {
		if err := oci.WritePod(t.Context(), archive, reference, ".."); (err == nil) != ok {
			t.Errorf("%s: %v", reference, err)
		}
	}
	if said, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Manifests[0].Annotations["io.containerd.image.name"]; got != "docker.io/library/pod:v1" {
		t.Errorf("named %q", got)
	}
}
