package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// sbomKind is the media type of a CycloneDX document in JSON.
const sbomKind = "application/vnd.cyclonedx+json"

// A bill is the software bill of materials of one image: what is in it, and nothing
// that was only at hand when it was built. It says what the binaries say of themselves
// (debug/buildinfo). Licenses are left out: nothing here knows them.
type bill struct {
	version    string
	at         time.Time
	components map[string]cdx.Component // by BOMRef
	needs      map[string][]string      // BOMRefs, by that of what is made of them
}

// image is the BOMRef of the image itself.
const image = "image"

func newBill(version string, at time.Time) *bill {
	return &bill{version, at, map[string]cdx.Component{}, map[string][]string{}}
}

// add adds c as part of whole, a BOMRef.
func (b *bill) add(whole string, c cdx.Component) {
	b.components[c.BOMRef] = c
	b.needs[whole] = append(b.needs[whole], c.BOMRef)
}

// addBinary adds the Go program at path, for Linux on arch, with its modules and the
// standard library.
func (b *bill) addBinary(arch, path string) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c := library(info.Main.Path, b.version)
	c.PackageURL += "?goarch=" + arch + "&goos=linux#" + strings.TrimPrefix(info.Path, info.Main.Path+"/")
	c.BOMRef, c.Type, c.Name = "linux/"+arch, cdx.ComponentTypeApplication, "ballast"
	c.Hashes = sha(data)
	b.add(image, c)
	b.add(c.BOMRef, library("stdlib", strings.TrimPrefix(info.GoVersion, "go")))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		l := library(m.Path, m.Version)
		// go.sum's hash is of a list of files, none that CycloneDX's hashes know.
		l.Properties = &[]cdx.Property{{Name: "csi.ballast.dev:go.sum", Value: m.Sum}}
		b.add(c.BOMRef, l)
	}
	return nil
}

// addCertificates adds the bundle, as the module it was made from.
func (b *bill) addCertificates(bundle []byte) error {
	const from = "golang.org/x/crypto/x509roots/fallback"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this program does not know its modules")
	}
	at := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == from })
	if at < 0 {
		return fmt.Errorf("this program is not made of %s", from)
	}
	c := library(from, info.Deps[at].Version)
	c.Type, c.Name = cdx.ComponentTypeData, "ca-certificates.crt"
	c.Hashes = sha(bundle)
	b.add(image, c)
	return nil
}

// library describes a version of a Go module. Its name for scanners is a package URL
// (github.com/package-url/purl-spec), its BOMRef too.
func library(path, version string) cdx.Component {
	purl := "pkg:golang/" + path + "@" + url.QueryEscape(version)
	return cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl}
}

func sha(data []byte) *[]cdx.Hash {
	sum := sha256.Sum256(data)
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
}

// document is the bill as CycloneDX, the same for the same image on any machine: its
// serial number is drawn from all else that it says.
func (b *bill) document() ([]byte, error) {
	components := []cdx.Component{}
	for _, ref := range slices.Sorted(maps.Keys(b.components)) {
		components = append(components, b.components[ref])
	}
	dependencies := []cdx.Dependency{}
	for _, ref := range slices.Sorted(maps.Keys(b.needs)) {
		needs := slices.Sorted(slices.Values(b.needs[ref]))
		dependencies = append(dependencies, cdx.Dependency{Ref: ref, Dependencies: &needs})
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: b.at.Format(time.RFC3339),
		Component: &cdx.Component{BOMRef: image, Type: cdx.ComponentTypeContainer, Name: "ballast", Version: b.version},
	}
	bom.Components, bom.Dependencies = &components, &dependencies
	unnumbered, err := encode(bom)
	if err != nil {
		return nil, err
	}
	bom.SerialNumber = uuid.NewHash(sha256.New(), uuid.Nil, unnumbered, 8).URN()
	return encode(bom)
}

// encode writes version 1.6, which the scanners of today read.
func encode(bom *cdx.BOM) ([]byte, error) {
	var out bytes.Buffer
	err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}
