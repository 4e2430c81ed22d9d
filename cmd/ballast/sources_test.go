package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/cmd/ballast/settings"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/manifestfile"
)

// What a config says is what an agent is made of: here one without a Hub, for which a
// manifest file says what a repository is and a cache directory has the bytes.
func TestAConfigMakesAnAgentWithoutAHub(t *testing.T) {
	clean(t)
	s, manifests := newSharedCache(t), t.TempDir()
	c, err := load(t, fmt.Sprintf(`
hub: {disabled: true}
sources:
- modelExpress: {url: "127.0.0.1:1"} # where nobody is
- {name: models, pvc: {dir: %s, authority: true}}
manifests: {dir: %s}
authorities: [{repos: "org/linked", authority: manifest}, {repos: "datasets/org/*", authority: models}]
open: [{authority: manifest, namespaces: [team]}, {repos: "datasets/org/*", namespaces: ["*"]}]
`, s.dir, manifests))
	must(t, err)
	made, err := c.newParts(settings.Defaults(c), zap.NewNop())
	must(t, err)
	if got := append(made.sourceNames(), made.authorityNames()...); !slices.Equal(got, []string{"modelexpress", "models", "models", "manifest"}) || made.config.Hub != nil {
		t.Errorf("it is made of %q, with a Hub: %v", got, made.config.Hub)
	}
	cache := storetest.Open(t)
	a, err := made.newAgent(cache, nil, nil)
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-ended)
		must(t, made.close())
	}()

	linked, main := repoAndMain(t, "org/linked")
	listed := manifestOf(t, s, linked)
	var text bytes.Buffer
	must(t, manifestfile.Write(&text, main, listed))
	must(t, os.WriteFile(filepath.Join(manifests, "linked.json"), text.Bytes(), 0o600))
	plain, _ := repoAndMain(t, "datasets/org/plain")
	acquire := func(repo fetcher.Repo, namespace string) (agent.Mountable, error) {
		id := repo.String() + namespace
		return a.Acquire(ctx, agent.Request{Repo: repo, Ref: main, Layout: store.Snapshot, Volume: store.Volume{ID: id, Target: "/pods/" + id},
			Pod: agent.Pod{Namespace: namespace, Name: "p", UID: id}})
	}
	for repo, file := range map[fetcher.Repo]string{linked: "sub/model.safetensors", plain: "data/train.parquet"} {
		got, err := acquire(repo, "team")
		must(t, err)
		content, err := os.ReadFile(filepath.Join(cache.Dir(), got.View, file))
		if err != nil || len(content) == 0 || !bytes.Equal(content, s.weights[:len(content)]) {
			t.Errorf("%s: %d bytes, %v", repo, len(content), err)
		}
	}
	if _, err := acquire(linked, "strangers"); err == nil {
		t.Error("a namespace that no rule names has it")
	}
}

// manifestOf lists what s has of repo's main.
func manifestOf(t *testing.T, s *sharedCache, repo fetcher.Repo) *fetcher.Manifest {
	t.Helper()
	commit, err := fetcher.ParseCommit(linkedCommit)
	must(t, err)
	made := &parts{}
	must(t, made.addSource(sourceConfig{Name: "models", PVC: &pvcConfig{s.dir, true}}, nil, zap.NewNop()))
	m, err := made.config.Authorities[0].Manifest(t.Context(), fetcher.Revision{Repo: repo, Commit: commit}, fetcher.Secret{})
	must(t, err)
	return m
}
