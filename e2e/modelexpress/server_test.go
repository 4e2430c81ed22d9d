package modelexpress

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// wantFetched brings all of m and checks that what the server has came, each with its
// Digest, and that all else is told as not to be had there.
func wantFetched(t *testing.T, url string, m *fetcher.Manifest) {
	t.Helper()
	s := storetest.Open(t)
	passed, err := fetch(t, s, connect(t, url), m, m.Files...)
	var none *fetcher.SourcesError
	if !errors.As(err, &none) || !errors.Is(err, fetcher.ErrAbsent) {
		t.Errorf("fetch of what it has not got: %v", err)
	}
	for _, f := range m.Files {
		path := f.Path.String()
		if served(path) != s.HasBlob(f.Digest) && f.Size > 0 {
			t.Errorf("%s: here: %v; passed over: %v", path, s.HasBlob(f.Digest), passed[path])
		}
		if err := passed[path]; !served(path) && !errors.Is(err, fetcher.ErrAbsent) || served(path) && err != nil {
			t.Errorf("%s: passed over: %v", path, err)
		}
	}
}

func TestServersGiveWhatTheyHaveAndNothingElse(t *testing.T) {
	content := files()
	servers(t, func(t *testing.T, e endpoint) {
		lay(t, e.dir, commit, content)
		url := e.start(t)
		began := time.Now()
		wantFetched(t, url, manifest(t, commit, content))
		t.Logf("%s gave what it has in %s", e.name, time.Since(began).Round(time.Millisecond))
	})
}

// The older release answers for whatever its main is; only its first chunk says so.
func TestServersOfAnotherCommitArePassedOver(t *testing.T) {
	content := files()
	servers(t, func(t *testing.T, e endpoint) {
		lay(t, e.dir, newer, content)
		says := "does not find it"
		if e.old {
			says = "it serves commit " + newer
		}
		m := manifest(t, third, content)
		s := storetest.Open(t)
		passed, err := fetch(t, s, connect(t, e.start(t)), m, m.Files...)
		if !errors.Is(err, fetcher.ErrAbsent) || fetcher.Transient(err) {
			t.Errorf("fetch: %v", err)
		}
		for _, f := range m.Files {
			if err := passed[f.Path.String()]; f.Size > 0 && served(f.Path.String()) && (err == nil || !strings.Contains(err.Error(), says)) {
				t.Errorf("%s: passed over: %v; want %q", f.Path, err, says)
			}
			if f.Size > 0 && s.HasBlob(f.Digest) {
				t.Errorf("%s came", f.Path)
			}
		}
		t.Log(passed["config.json"])
	})
}

func TestARealServersHalfDownloadedSnapshotIsTakenForWhatItIs(t *testing.T) {
	content := files()
	dir := t.TempDir()
	half := files()
	half["model.safetensors"] = half["model.safetensors"][:3<<20]
	delete(half, "more.bin")
	lay(t, dir, commit, half)
	server := start(t, Config{Program: program(t, Newest), Dir: dir})
	s := storetest.Open(t)
	m := manifest(t, commit, content)
	passed, err := fetch(t, s, connect(t, server.Address), m, m.Files...)
	if !errors.Is(err, fetcher.ErrAbsent) {
		t.Errorf("fetch: %v", err)
	}
	for path, says := range map[string]string{"model.safetensors": "3145728 bytes instead of", "more.bin": "does not list it"} {
		if err := passed[path]; err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: passed over: %v; want %q", path, err, says)
		}
	}
}

// A server that is killed in the midst of a file and comes back: the file comes whole.
func TestARealServerIsKilledInTheMiddle(t *testing.T) {
	content := map[string][]byte{"model.safetensors": make([]byte, 15*fetcher.PieceSize)}
	for i := range content["model.safetensors"] {
		content["model.safetensors"][i] = byte(i >> 12)
	}
	dir := t.TempDir()
	lay(t, dir, commit, content)
	cfg := Config{Program: program(t, Newest), Dir: dir}
	first := start(t, cfg)
	cfg.Address = first.Address
	m := manifest(t, commit, content)
	s := storetest.Open(t)
	var again *Server
	came := int64(0)
	job := fetcher.Job{
		Sources: []fetcher.Source{connect(t, first.Address)}, Revision: m.Revision, Files: m.Files, Sink: storetest.Sink{Store: s, Repo: m.Revision.Repo},
		Progress: func(_ string, n int64) {
			if came += n; again == nil && came > 5*fetcher.PieceSize {
				first.Stop()
				again = start(t, cfg)
			}
		},
	}
	engine := must(fetcher.NewEngine(fetcher.EngineConfig{}))(t)
	err := engine.Fetch(t.Context(), job)
	for range 5 { // as a Flight does
		if !fetcher.Transient(err) {
			break
		}
		t.Logf("once more after: %v", err)
		time.Sleep(time.Second)
		err = engine.Fetch(t.Context(), job)
	}
	if err != nil || again == nil || !s.HasBlob(m.Files[0].Digest) {
		t.Errorf("fetch: %v; killed: %v", err, again != nil)
	}
}

func TestAServerThatEndsAtOnceIsToldSo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := Start(ctx, Config{Program: "/bin/false", Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("%v", err)
	}
}

func TestVersionsAreThoseWithFeatures(t *testing.T) {
	for _, v := range []string{Newest, WithoutRevisions} {
		if !slices.Contains(strings.Split(features[v], ","), "memory-backend") {
			t.Errorf("%s would need a Redis", v)
		}
	}
}
