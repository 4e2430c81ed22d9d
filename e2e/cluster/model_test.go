package cluster

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/e2e/pod/report"
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

// check reads every file that p sees at dir: they must be those of m below folder, all
// of them and nothing else, with the digests that were given to the Hub.
func (w *world) check(t *testing.T, p *corev1.Pod, dir string, m model, folder string) {
	t.Helper()
	got := decode[report.Sum](t, w.exec(t, p, "sum", dir))
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

// asListed checks that m's files are those of the Hub's own listing: of LFS files it
// says the SHA-256, of all others the name that git has for their content.
func (w *world) asListed(t *testing.T, m model) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.hub.URL()+"/api/models/"+m.repo+"/tree/main?recursive=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list []struct {
		Type, Path, OID string
		LFS             *struct{ OID string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the Hub's listing of %s: %s: %v", m.repo, resp.Status, err)
	}
	files, lfs := 0, 0
	for _, e := range list {
		if e.Type != "file" {
			continue
		}
		files++
		content, ok := m.files[e.Path]
		said, is := e.OID, fmt.Sprintf("%x", sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...)))
		if e.LFS != nil {
			lfs++
			said, is = e.LFS.OID, fmt.Sprintf("%x", sha256.Sum256(content))
		}
		if !ok || said != is {
			t.Errorf("the Hub lists %s as %s; what was uploaded is %s", e.Path, said, is)
		}
	}
	if files != len(m.files) || lfs == 0 {
		t.Errorf("the Hub lists %d files, %d of them LFS; %d were uploaded", files, lfs, len(m.files))
	}
}
