package hubapi_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
)

// TestThisModulesOwnClientReadsACacheAsItReadsTheHub is what peers rest on.
func TestThisModulesOwnClientReadsACacheAsItReadsTheHub(t *testing.T) {
	s, repos := filled(t, "org/name", "datasets/org/set", "gpt2")
	client := must(hub.New(hub.Config{Endpoint: serve(t, hubapi.Cached(s))}))(t)
	t.Cleanup(client.CloseIdle)
	main := must(fetcher.ParseRef("main"))(t)
	anyone := fetcher.Secret{}
	for _, repo := range repos {
		got := must(client.Resolve(t.Context(), repo, main, anyone))(t).Commit
		if got.String() != commit {
			t.Errorf("%s: main is %s", repo, got)
		}
		rev := fetcher.Revision{Repo: repo, Commit: got}
		m := must(client.Manifest(t.Context(), rev, anyone))(t)
		if len(m.Files) != len(files) {
			t.Errorf("%s lists %d files; want %d", rev, len(m.Files), len(files))
		}
		for _, f := range m.Files {
			checkFile(t, client, rev, f)
		}
		proof := must(client.Prove(t.Context(), repo, main, must(fetcher.ParsePath("model.safetensors"))(t), anyone))(t)
		if want := sha256Of(files["model.safetensors"]); proof.Commit != got || proof.Digest.Hex() != want {
			t.Errorf("%s: proof %+v; want %s", repo, proof, want)
		}
	}
	missing := must(fetcher.ParseRepo("org/missing"))(t)
	if _, err := client.Resolve(t.Context(), missing, main, anyone); !errors.Is(err, fetcher.ErrNotFound) {
		t.Errorf("a missing repository: %v", err)
	}
	dev := must(fetcher.ParseRef("dev"))(t)
	if _, err := client.Resolve(t.Context(), repos[0], dev, anyone); !errors.Is(err, fetcher.ErrRevisionNotFound) {
		t.Errorf("a missing revision: %v", err)
	}
}

// checkFile reads f in two ranges.
func checkFile(t *testing.T, client *hub.Client, rev fetcher.Revision, f fetcher.File) {
	t.Helper()
	content := files[f.Path.String()]
	if f.Size != int64(len(content)) || f.Digest.Hex() != etagOf(f.Path.String())[1:len(f.Digest.Hex())+1] {
		t.Errorf("%s of %s: %d bytes of %s", f.Path, rev, f.Size, f.Digest)
		return
	}
	if f.Size == 0 {
		return
	}
	object := must(client.Open(t.Context(), rev, f, fetcher.Secret{}))(t)
	defer object.Close()
	var got []byte
	half := f.Size / 2
	for _, span := range [][2]int64{{0, half}, {half, f.Size - half}} {
		r := must(object.ReadRange(t.Context(), span[0], span[1]))(t)
		got = append(got, must(io.ReadAll(r))(t)...)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if !bytes.Equal(got, content) {
		t.Errorf("%s of %s: other bytes", f.Path, rev)
	}
}
