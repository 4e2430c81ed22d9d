package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// failing fails operations, which happen all the same, and notes every one.
type failing struct {
	mu    sync.Mutex
	dir   string
	op    durabletest.Op
	path  string // below dir, or a directory above it
	times int    // how often it still fails
	notes []string
}

func (f *failing) fault(op durabletest.Op, path string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rel := strings.TrimPrefix(path, f.dir+"/")
	f.notes = append(f.notes, string(op)+" "+rel)
	if op == f.op && (rel == f.path || strings.HasPrefix(rel, f.path+"/")) && f.times > 0 {
		f.times--
		return true, errInjected
	}
	return true, nil
}

func (f *failing) arm(op durabletest.Op, path string, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.op, f.path, f.times, f.notes = op, path, times, nil
}

func (f *failing) did(op string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.notes, op)
}

func openFailing(t *testing.T) (*store.Store, *failing) {
	t.Helper()
	f := &failing{dir: t.TempDir()}
	s, err := store.OpenWith(store.Config{Dir: f.dir}, durabletest.Ops{Fault: f.fault})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		mustCheck(t, f.dir)
	})
	return s, f
}

// ready returns an Ingest that can be committed.
func ready(t *testing.T, s *store.Store, o store.Origin, f fetcher.File, content []byte) []*store.Ingest {
	t.Helper()
	in := begin(t, s, o, f)
	write(t, in, content)
	if err := in.Verify(); err != nil {
		t.Fatal(err)
	}
	return []*store.Ingest{in}
}

func TestANameThatMayNotBeDurableIsTakenBack(t *testing.T) {
	s, disk := openFailing(t)
	f := storetest.File(t, "a.bin", random(1, 100), true)
	blob := filepath.Join("blobs", "sha256", f.Digest.Hex()[:2], f.Digest.Hex())
	ins := ready(t, s, originA, f, random(1, 100))
	disk.arm(durabletest.Rename, "blobs", 1)
	if err := s.Commit(t.Context(), ins); !errors.Is(err, errInjected) || errors.Is(err, store.ErrUnknownState) {
		t.Errorf("Commit says %v", err)
	}
	if _, err := os.Lstat(filepath.Join(s.Dir(), blob)); !errors.Is(err, fs.ErrNotExist) || s.HasBlob(f.Digest) {
		t.Errorf("the name is still there (%v)", err)
	}
	ins[0].Close()

	// With a disk that cannot even take it back, nothing more is changed.
	ins = ready(t, s, originA, f, random(1, 100))
	disk.arm(durabletest.Sync, filepath.Dir(blob), 2)
	if err := s.Commit(t.Context(), ins); !errors.Is(err, store.ErrUnknownState) || !errors.Is(err, errInjected) {
		t.Errorf("Commit on a broken disk says %v", err)
	}
	if err := s.Unpin(t.Context(), volume("1")); !errors.Is(err, store.ErrUnknownState) {
		t.Errorf("Unpin after that says %v", err)
	}
}

func TestAPinThatMayNotBeDurableIsTakenBackOrCountsForEveryView(t *testing.T) {
	s, disk := openFailing(t)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	if err := s.AssembleView(t.Context(), k, m); err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(s.Dir(), "pins", volume("1").Pin()+".json")
	disk.arm(durabletest.Rename, "pins", 1)
	if _, ok, err := s.PinView(t.Context(), k, volume("1")); ok || !errors.Is(err, errInjected) {
		t.Errorf("PinView says %v, %v", ok, err)
	}
	if _, err := os.Lstat(pin); !errors.Is(err, fs.ErrNotExist) || s.Pinned("any") {
		t.Errorf("the pin is still there (%v)", err)
	}
	disk.arm(durabletest.Sync, "pins", 2) // the file, and the directory when it is taken back
	if _, ok, err := s.PinView(t.Context(), k, volume("1")); ok || !errors.Is(err, errInjected) {
		t.Errorf("PinView says %v, %v", ok, err)
	}
	if !s.Pinned("any") {
		t.Error("a pin that may be on disk does not count")
	}
	if err := s.Unpin(t.Context(), volume("1")); err != nil || s.Pinned("any") {
		t.Errorf("it counts after Unpin (%v)", err)
	}
}

func TestOriginsThatMayNotBeDurableAreWrittenAnew(t *testing.T) {
	s, disk := openFailing(t)
	old := storetest.File(t, "old", random(1, 100), false)
	storetest.Ingest(t, s, repoA, old, random(1, 100))
	f := storetest.File(t, "new", random(2, 100), false)
	ins := ready(t, s, originA, f, random(2, 100))
	disk.arm(durabletest.Sync, "origins", 1)
	if err := s.Commit(t.Context(), ins); !errors.Is(err, errInjected) || s.HasBlob(f.Digest) || s.CameThrough(f.Digest, originA) {
		t.Errorf("Commit says %v", err)
	}
	disk.arm("", "", 0)
	if err := s.Commit(t.Context(), ins); err != nil {
		t.Error(err)
	}
	if !disk.did("rename origins/model/org--model-a") {
		t.Error("what an append that failed had written was appended to")
	}
	dir := s.Dir()
	s.Close()
	s = storetest.OpenAt(t, dir)
	if !s.CameThrough(f.Digest, originA) || !s.CameThrough(old.Digest, originA) {
		t.Error("an origin is lost")
	}
}

// A killed process leaves names that everyone sees and a power cut would take: Open
// makes them durable before anything is built on them.
func TestOpenSyncsEveryDirectoryThatNamesSomething(t *testing.T) {
	s, disk := openFailing(t)
	m := storetest.Fill(t, s, repoA, commit1, map[string][]byte{"a.bin": random(1, 10)}, isLFS)
	s.Close()
	disk.arm("", "", 0)
	s, err := store.OpenWith(store.Config{Dir: disk.dir}, durabletest.Ops{Fault: disk.fault})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, dir := range []string{"views", "pins", "blobs", "blobs/sha256", "blobs/sha256/" + m.Files[0].Digest.Hex()[:2], "manifests/model/org--model-a",
		"refs/model", "origins/model", disk.dir} {
		if !disk.did("sync " + dir) {
			t.Errorf("%s was not synced", dir)
		}
	}
}

func TestAPinWhoseRemovalFailedIsWrittenAnew(t *testing.T) {
	s, disk := openFailing(t)
	m := storetest.Fill(t, s, repoA, commit1, smallFiles(), isLFS)
	k := store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}
	if err := s.AssembleView(t.Context(), k, m); err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(s.Dir(), "pins", volume("1").Pin()+".json")
	if _, ok, err := s.PinView(t.Context(), k, volume("1")); !ok || err != nil {
		t.Fatal(ok, err)
	}
	disk.arm(durabletest.Sync, "pins", 1) // after the file is gone
	if err := s.Unpin(t.Context(), volume("1")); !errors.Is(err, errInjected) {
		t.Errorf("Unpin says %v", err)
	}
	if !s.Pinned("any") {
		t.Error("a pin that may still be on disk does not count")
	}
	if _, ok, err := s.PinnedView(volume("1")); ok || err != nil {
		t.Errorf("a pin that may be gone is handed out: %v, %v", ok, err)
	}
	if _, ok, err := s.PinView(t.Context(), k, volume("1")); !ok || err != nil {
		t.Errorf("PinView says %v, %v", ok, err)
	}
	if _, err := os.Lstat(pin); err != nil {
		t.Errorf("what was handed out has no pin on disk: %v", err)
	}
}
