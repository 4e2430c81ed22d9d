package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
	"github.com/ballast-csi/ballast/agent/store/storetest"
)

func TestAManifestLeavesWhatDownloadsLeaveFree(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	disk := smallDisk(t)
	s, err := store.Open(store.Config{Dir: filepath.Join(disk, "cache"), Reserve: 6 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	taken := filepath.Join(disk, "taken")
	if err := os.WriteFile(taken, make([]byte, 35<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m := storetest.Manifest(t, repoA, commit1, map[string][]byte{"a": []byte("1")}, nil)
	err = s.PutManifest(originA, m)
	if !errors.Is(err, store.ErrNoSpace) || !strings.Contains(err.Error(), "beyond the 6291456 that downloads leave free") {
		t.Errorf("PutManifest says %v", err)
	}
	if _, err := s.Manifest(originA, m.Revision.Commit); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Manifest says %v", err)
	}
	if err := s.SetPublic(originA, time.Now()); err != nil {
		t.Errorf("what is short may take of it: %v", err)
	}
	if err := errors.Join(os.Remove(taken), s.PutManifest(originA, m)); err != nil {
		t.Errorf("once there is room: %v", err)
	}
	mustCheck(t, s.Dir())
}

// A listing is as long as anybody makes it.
func TestAManifestThatIsBeingWrittenHoldsUpNoOtherRecord(t *testing.T) {
	writing, written := make(chan struct{}), make(chan struct{})
	s := openOn(t, t.TempDir(), durabletest.Ops{Fault: func(op durabletest.Op, path string) (bool, error) {
		if op == durabletest.Rename && strings.Contains(path, "manifests") {
			close(writing)
			<-written
		}
		return true, nil
	}})
	ended := make(chan error)
	go func() {
		ended <- s.PutManifest(originA, storetest.Manifest(t, repoA, commit1, map[string][]byte{"a": []byte("1")}, nil))
	}()
	<-writing
	other := make(chan error, 1)
	go func() { other <- s.SetPublic(originB, time.Now()) }()
	select {
	case err := <-other:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("another's record waits for it")
	}
	close(written)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
