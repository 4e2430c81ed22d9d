package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/agentrpc"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/csi"
	"github.com/ballast-csi/ballast/fetcher"
)

// node runs an agent that reads from the Hub at url and a CSI driver that asks it,
// and returns a connection to the driver.
func node(t *testing.T, s *store.Store, url string) spec.NodeClient {
	t.Helper()
	client := hubClient(t, url)
	engine := must(fetcher.NewEngine(fetcher.EngineConfig{Log: quiet(t)}))(t)
	a := must(agent.New(agent.Config{Store: s, Hub: client, Sources: []fetcher.Source{client}, Engine: engine, Log: quiet(t)}))(t)
	// Not t.TempDir: a socket's path has at most 107 bytes.
	dir := must(os.MkdirTemp("", "ballast"))(t)
	socket := filepath.Join(dir, "csi.sock")
	driver := must(csi.New(csi.Config{Version: "e2e", NodeID: "here", CacheDir: s.Dir(), Socket: socket, Agent: agentrpc.Local(a), Log: quiet(t)}))(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return driver.Run(ctx) })
	conn := must(grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return spec.NewNodeClient(conn)
}

// publish mounts a volume at target as kubelet does, and returns the function that
// unmounts it.
func publish(t *testing.T, node spec.NodeClient, target string, attributes map[string]string) (unpublish func()) {
	t.Helper()
	id := "csi-" + sha256Of([]byte(target))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // kubelet's own limit
	defer cancel()
	if _, err := node.NodePublishVolume(ctx, &spec.NodePublishVolumeRequest{
		VolumeId: id, TargetPath: target, Readonly: true, VolumeContext: attributes,
		VolumeCapability: &spec.VolumeCapability{
			AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{}},
			AccessMode: &spec.VolumeCapability_AccessMode{Mode: spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		},
	}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("publish %v: %v", attributes, err)
	}
	return func() {
		t.Helper()
		if _, err := node.NodeUnpublishVolume(t.Context(), &spec.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}); err != nil {
			t.Fatalf("unpublish: %v", err)
		}
		if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after unpublish the target is still there: %v", err)
		}
	}
}

// TestAHubOfOtherHandsIsMountedThroughCSI is the whole path, from a Hub and a CSI call
// to the files that a pod sees; then the real client reads the second volume offline.
func TestAHubOfOtherHandsIsMountedThroughCSI(t *testing.T) {
	h, files := startHub(t), modelFiles()
	commit := must(h.Upload(t.Context(), "org/tiny", files))(t)
	s := storetest.Open(t)
	driver := node(t, s, h.URL())
	dir := t.TempDir()

	plain := filepath.Join(dir, "plain")
	unpublish := publish(t, driver, plain, map[string]string{"repo": "org/tiny"})
	for path, content := range files {
		got, err := os.ReadFile(filepath.Join(plain, path))
		if err != nil || sha256Of(got) != sha256Of(content) {
			t.Errorf("%s: %d bytes through the mount, error %v; want the %d that were uploaded", path, len(got), err, len(content))
		}
	}
	if n := countFiles(t, plain); n != len(files) {
		t.Errorf("the mount shows %d files; want %d", n, len(files))
	}
	if err := os.WriteFile(filepath.Join(plain, "config.json"), nil, 0o644); err == nil {
		t.Error("the mount took a write")
	}

	cache := filepath.Join(dir, "cache")
	unpublishCache := publish(t, driver, cache, map[string]string{"repo": "org/tiny", "revision": "main", "layout": "hub-cache"})
	for _, version := range clientVersions {
		ask := askFor("org/tiny", "model", commit, files)
		ask.Offline = true
		client{version: version, script: "offline.py", args: []string{ask.json(t)}, env: []string{"HF_HUB_CACHE=" + cache, "HF_HUB_OFFLINE=1"}, wantCall: 9}.run(t)
	}
	if stats := s.Stats(); stats.Pins != 2 || stats.Views != 2 {
		t.Errorf("two volumes are mounted: %+v", stats)
	}
	unpublish()
	unpublishCache()
	if stats := s.Stats(); stats.Pins != 0 || stats.Ingests != 0 {
		t.Errorf("after the last unpublish: %+v", stats)
	}
}

func countFiles(t *testing.T, root string) int {
	t.Helper()
	n := 0
	if err := filepath.WalkDir(root, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}
