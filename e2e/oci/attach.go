package oci

import (
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// noConfig is the configuration of what is no image (OCI image-spec 1.1, manifest.md,
// "Guidance for an Empty Descriptor").
const noConfig = "{}"

// Attach makes a manifest that says something of subject, an image or an index: data,
// of the media type kind. Registries list it among subject's referrers.
func Attach(subject partial.Describable, kind types.MediaType, data []byte) (v1.Image, error) {
	content := static.NewLayer(data, kind)
	var described [3]v1.Descriptor
	for i, d := range []partial.Describable{subject, static.NewLayer([]byte(noConfig), "application/vnd.oci.empty.v1+json"), content} {
		of, err := partial.Descriptor(d)
		if err != nil {
			return nil, err
		}
		described[i] = v1.Descriptor{MediaType: of.MediaType, Size: of.Size, Digest: of.Digest}
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		ArtifactType:  string(kind),
		Config:        described[1],
		Layers:        described[2:],
		Subject:       &described[0],
	})
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(attachment{manifest, content})
}

// attachment is what a v1.Image of its manifest is made of.
type attachment struct {
	manifest []byte
	content  v1.Layer
}

func (a attachment) RawManifest() ([]byte, error)        { return a.manifest, nil }
func (a attachment) RawConfigFile() ([]byte, error)      { return []byte(noConfig), nil }
func (a attachment) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (a attachment) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	of, err := a.content.Digest()
	if err == nil && of != h {
		err = fmt.Errorf("no layer %s", h)
	}
	return a.content, err
}
