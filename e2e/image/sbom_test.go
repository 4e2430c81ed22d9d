package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/ballast-csi/ballast/e2e/oci/ocitest"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// content returns what an attached manifest holds.
func content(t *testing.T, attached v1.Image) []byte {
	t.Helper()
	layers, err := attached.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// decoded reads a document that has nothing in it that CycloneDX does not know.
func decoded(t *testing.T, document []byte) *cdx.BOM {
	t.Helper()
	var bom cdx.BOM
	strict := json.NewDecoder(bytes.NewReader(document))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != cdx.SpecVersion1_6 || !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(bom.SerialNumber) {
		t.Errorf("%s %s, serial number %s", bom.BOMFormat, bom.SpecVersion, bom.SerialNumber)
	}
	return &bom
}

// modules returns what the go command says a binary is made of, as package URLs.
func modules(t *testing.T, binary string) []string {
	t.Helper()
	said, err := exec.CommandContext(t.Context(), "go", "version", "-m", binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	var purls []string
	for i, line := range strings.Split(string(said), "\n") {
		fields := strings.Fields(line)
		switch {
		case i == 0:
			purls = append(purls, "pkg:golang/stdlib@"+strings.TrimPrefix(fields[1], "go"))
		case len(fields) > 2 && fields[0] == "dep":
			purls = append(purls, "pkg:golang/"+fields[1]+"@"+strings.ReplaceAll(fields[2], "+", "%2B"))
		}
	}
	slices.Sort(purls)
	return purls
}

func TestSBOMIsAttachedAndListsWhatTheImageIsMadeOfAndNothingElse(t *testing.T) {
	out := built(t, "")
	_, attached := archived(t, out) // to the index, or it fails
	if len(attached) != 1 {
		t.Fatalf("%d things are attached; want one", len(attached))
	}
	m := ocitest.Manifest(t, attached[0])
	if m.ArtifactType != sbomKind || string(m.Layers[0].MediaType) != sbomKind || string(m.Config.MediaType) != "application/vnd.oci.empty.v1+json" {
		t.Errorf("its manifest is %+v", m)
	}
	document := content(t, attached[0])
	if file, err := os.ReadFile(filepath.Join(out, "ballast.cdx.json")); err != nil || !bytes.Equal(file, document) {
		t.Errorf("the file is not what is attached (%v)", err)
	}
	bom := decoded(t, document)
	if c := bom.Metadata.Component; c.Name != "ballast" || c.Version != "v0-test" || c.Type != cdx.ComponentTypeContainer {
		t.Errorf("it is of %+v", c)
	}
	needs := map[string][]string{}
	for _, d := range *bom.Dependencies {
		needs[d.Ref] = *d.Dependencies
	}
	sums := map[string]string{} // of the files in the image, by BOMRef
	for _, arch := range architectures {
		binary := filepath.Join(out, "image", arch, "ballast")
		if got, want := needs["linux/"+arch], modules(t, binary); len(want) < 20 || !slices.Equal(got, want) {
			t.Errorf("%s: made of %q; want %q", arch, got, want)
		}
		sums["linux/"+arch] = sum(t, binary)
	}
	for _, c := range *bom.Components {
		if c.Type == cdx.ComponentTypeData {
			sums[c.BOMRef] = sum(t, filepath.Join(out, "image", "amd64", "ca-certificates.crt"))
		}
	}
	if got, want := needs["image"], slices.Sorted(maps.Keys(sums)); len(want) != 3 || !slices.Equal(got, want) {
		t.Errorf("the image is made of %q; want two binaries and the certificates, %q", got, want)
	}
	checkComponents(t, bom, sums)
}

// checkComponents wants each component to be part of something, each part to be a
// component, and those to have hashes that are files in the image.
func checkComponents(t *testing.T, bom *cdx.BOM, sums map[string]string) {
	t.Helper()
	needed := map[string]bool{}
	for _, d := range *bom.Dependencies {
		for _, ref := range *d.Dependencies {
			needed[ref] = true
		}
	}
	for _, c := range *bom.Components {
		if !needed[c.BOMRef] {
			t.Errorf("nothing is made of %s", c.BOMRef)
		}
		delete(needed, c.BOMRef)
		var got string
		if c.Hashes != nil {
			got = (*c.Hashes)[0].Value
		}
		if want := sums[c.BOMRef]; got != want {
			t.Errorf("%s: its hash is %q; want %q", c.BOMRef, got, want)
		}
	}
	for ref := range needed {
		t.Errorf("%s is not described", ref)
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	of := sha256.Sum256(data)
	return hex.EncodeToString(of[:])
}
