package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
)

const (
	linkedCommit = "1111111111111111111111111111111111111111"
	plainCommit  = "2222222222222222222222222222222222222222"
)

// sharedCache is a Hugging Face cache with org/linked, whose snapshot is links to blobs and has
// a tree, and datasets/org/plain, which has files and no tree.
type sharedCache struct {
	dir     string
	weights []byte
}

func digestOf(t *testing.T, alg fetcher.Algorithm, content []byte) fetcher.Digest {
	t.Helper()
	h := fetcher.NewHasher(alg, int64(len(content)))
	h.Write(content)
	d, err := h.Digest()
	must(t, err)
	return d
}

func newSharedCache(t *testing.T) *sharedCache {
	t.Helper()
	s := &sharedCache{dir: t.TempDir(), weights: make([]byte, fetcher.PieceSize+100_000)} // two Pieces
	rand.NewChaCha8([32]byte{1}).Read(s.weights)
	put := func(name string, content []byte) {
		t.Helper()
		file := filepath.Join(s.dir, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, content, 0o644))
	}
	config := []byte("{}\n")
	sha, git := digestOf(t, fetcher.SHA256, s.weights).Hex(), digestOf(t, fetcher.GitBlobSHA1, config).Hex()
	linked := "models--org--linked/"
	put(linked+"blobs/"+sha, s.weights)
	put(linked+"blobs/"+git, config)
	put(linked+"refs/main", []byte(linkedCommit))
	put(linked+"trees/"+linkedCommit+".json", fmt.Appendf(nil, `{"files": {
 "sub/model.safetensors": {"size": %d, "blob_id": %q, "lfs_sha256": %q, "lfs_size": %[1]d},
 "config.json": {"size": %[4]d, "blob_id": %[2]q}}, "format_version": 1}`, len(s.weights), git, sha, len(config)))
	snapshot := filepath.Join(s.dir, linked, "snapshots", linkedCommit)
	must(t, os.MkdirAll(filepath.Join(snapshot, "sub"), 0o755))
	must(t, os.Symlink("../../blobs/"+git, filepath.Join(snapshot, "config.json")))
	must(t, os.Symlink("../../../blobs/"+sha, filepath.Join(snapshot, "sub", "model.safetensors")))
	plain := "datasets--org--plain/"
	put(plain+"refs/main", []byte(plainCommit))
	put(plain+"snapshots/"+plainCommit+"/config.json", config)
	put(plain+"snapshots/"+plainCommit+"/data/train.parquet", s.weights[:200_000])
	must(t, filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error { // at rest: nobody downloads it
		at := unix.NsecToTimeval(time.Now().Add(-time.Hour).UnixNano())
		return errors.Join(err, unix.Lutimes(path, []unix.Timeval{at, at}))
	}))
	return s
}

// serve starts ballast serve and returns its URL.
func (s *sharedCache) serve(t *testing.T, f serveFlags) string {
	t.Helper()
	f.dir, f.address = s.dir, "127.0.0.1:0"
	h, err := f.open(zap.NewNop())
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
	})
	scheme := "http://"
	if h.server.TLSConfig != nil {
		scheme = "https://"
	}
	return scheme + h.listener.Addr().String()
}

func hubAt(t *testing.T, cfg hub.Config) *hub.Client {
	t.Helper()
	cfg.TokensOverHTTP = true
	c, err := hub.New(cfg)
	must(t, err)
	t.Cleanup(c.CloseIdle)
	return c
}

func repoAndMain(t *testing.T, name string) (fetcher.Repo, fetcher.Ref) {
	t.Helper()
	repo, err := fetcher.ParseRepo(name)
	must(t, err)
	main, err := fetcher.ParseRef("main")
	must(t, err)
	return repo, main
}

func TestACacheDirectoryIsServedAsAHub(t *testing.T) {
	s := newSharedCache(t)
	client := hubAt(t, hub.Config{Endpoint: s.serve(t, serveFlags{})})
	for name, want := range map[string]struct{ commit, big string }{
		"org/linked":         {linkedCommit, "sub/model.safetensors"},
		"datasets/org/plain": {plainCommit, "data/train.parquet"},
	} {
		repo, main := repoAndMain(t, name)
		found, err := client.Resolve(t.Context(), repo, main, fetcher.Secret{})
		if err != nil || found.Commit.String() != want.commit {
			t.Fatalf("%s: %+v, %v", name, found, err)
		}
		rev := fetcher.Revision{Repo: repo, Commit: found.Commit}
		m, err := client.Manifest(t.Context(), rev, fetcher.Secret{})
		if err != nil || len(m.Files) != 2 {
			t.Fatalf("%s: %+v, %v", name, m, err)
		}
		for _, f := range m.Files {
			content := []byte("{}\n")
			if f.Path.String() == want.big {
				content = s.weights[:f.Size]
				if f.Digest != digestOf(t, fetcher.SHA256, content) {
					t.Errorf("%s: %s has %s", name, f.Path, f.Digest)
				}
			}
			proof, err := client.Prove(t.Context(), repo, main, f.Path, fetcher.Secret{})
			if err != nil || proof.Commit != found.Commit || f.Digest.Algorithm() == fetcher.SHA256 && proof.Digest != f.Digest {
				t.Errorf("%s: %s is proved by %+v, %v", name, f.Path, proof, err)
			}
			o, err := client.Open(t.Context(), rev, f, fetcher.Secret{})
			must(t, err)
			for _, span := range [][2]int64{{0, f.Size}, {1, f.Size - 1}, {f.Size - 1, 1}} {
				r, err := o.ReadRange(t.Context(), span[0], span[1])
				must(t, err)
				got, err := io.ReadAll(r)
				r.Close()
				if err != nil || !bytes.Equal(got, content[span[0]:span[0]+span[1]]) {
					t.Errorf("%s: %s from %d: %d bytes, %v", name, f.Path, span[0], len(got), err)
				}
			}
		}
	}
	repo, main := repoAndMain(t, "org/none")
	if _, err := client.Resolve(t.Context(), repo, main, fetcher.Secret{}); !errors.Is(err, fetcher.ErrNotFound) {
		t.Errorf("a repository that is not there: %v", err)
	}
	repo, _ = repoAndMain(t, "org/linked")
	other, err := fetcher.ParseRef("v2")
	must(t, err)
	if _, err := client.Resolve(t.Context(), repo, other, fetcher.Secret{}); !errors.Is(err, fetcher.ErrRevisionNotFound) {
		t.Errorf("a revision that is not there: %v", err)
	}
}

// mountFrom lets an agent whose Hub is at endpoint bring a repository.
func mountFrom(t *testing.T, cfg hub.Config, name, token string) (agent.Mountable, string, error) {
	t.Helper()
	client := hubAt(t, cfg)
	engine, err := fetcher.NewEngine(fetcher.EngineConfig{})
	must(t, err)
	cache := storetest.Open(t)
	a, err := agent.New(agent.Config{Store: cache, Hub: client, Sources: []fetcher.Source{client}, Engine: engine, Log: zap.NewNop()})
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-ended)
	}()
	repo, main := repoAndMain(t, name)
	got, err := a.Acquire(ctx, agent.Request{Repo: repo, Ref: main, Layout: store.Snapshot, Token: fetcher.NewSecret(token), Volume: store.Volume{ID: "v", Target: "/pods/v"}})
	return got, cache.Dir(), err
}

func TestAnAgentsHubMayBeACacheDirectory(t *testing.T) {
	s := newSharedCache(t)
	url := s.serve(t, serveFlags{})
	for name, big := range map[string]string{"org/linked": "sub/model.safetensors", "datasets/org/plain": "data/train.parquet"} {
		got, dir, err := mountFrom(t, hub.Config{Endpoint: url}, name, "")
		must(t, err)
		content, err := os.ReadFile(filepath.Join(dir, got.View, big))
		if err != nil || !bytes.Equal(content, s.weights[:len(content)]) || len(content) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(content), err)
		}
	}
	// What does not match what the directory says of itself is not mounted.
	blob := filepath.Join(s.dir, "models--org--linked", "blobs", digestOf(t, fetcher.SHA256, s.weights).Hex())
	rotten := bytes.Clone(s.weights)
	rotten[77] ^= 1
	must(t, os.WriteFile(blob, rotten, 0o644))
	if _, _, err := mountFrom(t, hub.Config{Endpoint: url}, "org/linked", ""); err == nil || !strings.Contains(err.Error(), "model.safetensors") {
		t.Errorf("a rotten blob: %v", err)
	}
	must(t, os.Remove(blob))
	client := hubAt(t, hub.Config{Endpoint: url})
	repo, main := repoAndMain(t, "org/linked")
	path, err := fetcher.ParsePath("sub/model.safetensors")
	must(t, err)
	if _, err := client.Prove(t.Context(), repo, main, path, fetcher.Secret{}); !errors.Is(err, fetcher.ErrEntryNotFound) {
		t.Errorf("a blob that is not there yet: %v", err)
	}
}

func TestOnlyWhoBringsTheTokenReadsWhatIsServed(t *testing.T) {
	s := newSharedCache(t)
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte("secret-one\n"), 0o600))
	url := s.serve(t, serveFlags{tokenFile: file})
	client := hubAt(t, hub.Config{Endpoint: url})
	repo, main := repoAndMain(t, "org/linked")
	path, err := fetcher.ParsePath("config.json")
	must(t, err)
	commit, err := fetcher.ParseCommit(linkedCommit)
	must(t, err)
	try := func(token string, want error) {
		t.Helper()
		secret := fetcher.NewSecret(token)
		_, resolve := client.Resolve(t.Context(), repo, main, secret)
		_, list := client.Manifest(t.Context(), fetcher.Revision{Repo: repo, Commit: commit}, secret)
		_, prove := client.Prove(t.Context(), repo, main, path, secret)
		_, check := client.Prove(t.Context(), repo, main, fetcher.Path{}, secret)
		for what, err := range map[string]error{"resolve": resolve, "list": list, "prove": prove, "auth-check": check} {
			if !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("%s with %q: %v, want %v", what, token, err, want)
			}
		}
	}
	try("secret-one", nil) // the listing is now kept, for those who may have it
	try("", fetcher.ErrNotFound)
	try("secret-two", fetcher.ErrBadToken)
	try("secret-on", fetcher.ErrBadToken)
	must(t, os.WriteFile(file, []byte("secret-two"), 0o600))
	try("secret-two", nil)
	try("secret-one", fetcher.ErrBadToken)
	if _, _, err := mountFrom(t, hub.Config{Endpoint: url}, "org/linked", "secret-two"); err != nil {
		t.Errorf("a pod with the token: %v", err)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if res, err := http.Get(url + path); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s: %v, %v", path, res, err)
		} else {
			res.Body.Close()
		}
	}
	must(t, os.Rename(s.dir, s.dir+"-away"))
	if res, err := http.Get(url + "/readyz"); err != nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without its directory: %v, %v", res, err)
	} else {
		res.Body.Close()
	}
	must(t, os.Rename(s.dir+"-away", s.dir))
	http.DefaultClient.CloseIdleConnections()
}

func TestServeWithACertificate(t *testing.T) {
	s := newSharedCache(t)
	dir := t.TempDir()
	files, _ := writeCertificate(t, dir, 1)
	url := s.serve(t, serveFlags{cert: files.TLSCert, key: files.TLSKey})
	if _, _, err := mountFrom(t, hub.Config{Endpoint: url, CAFile: files.TLSCert}, "datasets/org/plain", ""); err != nil {
		t.Error(err)
	}
}

func TestServeSaysAllThatIsWrongAtOnce(t *testing.T) {
	_, err := ballast(t, "serve", "--cache=/none/models", "--token-file=/none/token", "--tls-cert=/none/crt", "--address=nonsense")
	if !errors.As(err, new(usageError)) {
		t.Fatal(err)
	}
	for _, want := range []string{"--cache: ", "/none/models", "--token-file: ", "/none/token", "--tls-cert and --tls-key: give both", "--address: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	if _, err := ballast(t, "serve"); err == nil || !strings.Contains(err.Error(), "--cache: say which") {
		t.Error(err)
	}
}
