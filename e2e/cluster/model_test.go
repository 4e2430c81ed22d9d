package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// model is a repository on the Hub, made for one scenario.
type model struct {
	repo   string
	commit string
	files  map[string][]byte
}

// seeds gives each model of a run bytes of its own.
var seeds atomic.Uint64

// publish fills a repository that no other scenario knows with what files makes.
func (w *world) publish(t *testing.T, files func(seed uint64) hub.Model) model {
	t.Helper()
	seed := seeds.Add(1)
	m := model{repo: "org/" + strings.ToLower(t.Name()), files: files(seed).Files()}
	return w.upload(t, m)
}

// upload puts m's files onto the Hub, as a new commit.
func (w *world) upload(t *testing.T, m model) model {
	t.Helper()
	var err error
	if m.commit, err = w.hub.Upload(t.Context(), m.repo, m.files); err != nil {
		t.Fatal(err)
	}
	return m
}

// bytes of all files.
func (m model) bytes() int64 {
	var n int64
	for _, content := range m.files {
		n += int64(len(content))
	}
	return n
}

// sums is what the pod program's "sum" says.
type sums struct {
	Entries []struct {
		Path, Type, Mode, SHA256 string
		Size                     int64
	}
	Files, Bytes int64
}

// check reads every file that p sees at dir: they must be those of m below folder, all
// of them and nothing else, with the digests that were given to the Hub.
func (w *world) check(t *testing.T, p *corev1.Pod, dir string, m model, folder string) {
	t.Helper()
	got := decode[sums](t, w.exec(t, p, "sum", dir))
	want := map[string]string{}
	for path, content := range m.files {
		if rest, ok := strings.CutPrefix(path, folder); ok {
			sum := sha256.Sum256(content)
			want[rest] = hex.EncodeToString(sum[:])
		}
	}
	seen := 0
	for _, e := range got.Entries {
		switch {
		case e.Type == "directory":
		case e.Type != "file":
			t.Errorf("%s: a %s in the volume", e.Path, e.Type)
		case want[e.Path] != e.SHA256:
			t.Errorf("%s: sha256 %s in the pod, %q on the Hub", e.Path, e.SHA256, want[e.Path])
		default:
			seen++
		}
	}
	if seen != len(want) {
		t.Errorf("%d files are as on the Hub; want %d", seen, len(want))
	}
}
