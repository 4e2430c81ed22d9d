package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
	"github.com/ballast-csi/ballast/agent/store/storetest"
)

var errInjected = errors.New("injected")

// counter fails the nth operation from 1 on, and with sticky all after it too.
type counter struct {
	mu      sync.Mutex
	nth, n  int
	apply   bool
	sticky  bool
	stopped bool // no more faults
	hit     string
}

func (c *counter) fault(op durabletest.Op, path string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	if c.stopped || c.n < c.nth || c.n > c.nth && !c.sticky {
		return true, nil
	}
	if c.hit == "" {
		c.hit = fmt.Sprintf("%s %s", op, path)
	}
	return c.apply, errInjected
}

// Every single operation on the disk fails once, in both forms, and in a disk that
// stays broken from there on. No failure is swallowed, none breaks an invariant, and
// everything can be done again: in the same process, unless the disk also failed while
// the change was undone, and then after a restart.
func TestEveryFailureOfTheDiskIsToldAndCanBeTriedAgain(t *testing.T) {
	files := smallFiles()
	for _, sticky := range []bool{false, true} {
		for _, apply := range []bool{false, true} {
			t.Run(fmt.Sprintf("sticky=%v applied=%v", sticky, apply), func(t *testing.T) {
				t.Parallel()
				for nth := 1; ; nth++ {
					if !failOnce(t, &counter{nth: nth, apply: apply, sticky: sticky}, files) {
						if nth < 60 {
							t.Errorf("only %d operations", nth-1)
						}
						return
					}
				}
			})
		}
	}
}

// failOnce reports whether there was an nth operation to fail.
func failOnce(t *testing.T, c *counter, files map[string][]byte) bool {
	t.Helper()
	dir := quickDir(t)
	defer os.RemoveAll(dir)
	ops := durabletest.Ops{Fault: c.fault}
	s, err := store.OpenWith(store.Config{Dir: dir}, ops)
	if err == nil {
		err = useStore(s, t, files)
	}
	if c.hit == "" {
		s.Close()
		return false
	}
	where := strings.ReplaceAll(c.hit, dir, "")
	if err == nil {
		t.Errorf("%s failed and nobody said so", where)
	} else if !errors.Is(err, errInjected) {
		t.Errorf("%s failed, and what is said is %v", where, err)
	}
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	if s != nil {
		if err := useStore(s, t, files); err == nil {
			if err := used(s, t, files); err != nil {
				t.Errorf("%s failed; done again: %v", where, err)
			}
		} else if !errors.Is(err, store.ErrUnknownState) {
			t.Errorf("%s failed; again: %v", where, err)
		} else if !c.sticky {
			t.Errorf("%s failed once, and the state is unknown: %v", where, err)
		}
		s.Close()
	}
	s, err = store.OpenWith(store.Config{Dir: dir}, durable.OS{})
	if err != nil {
		t.Fatalf("%s failed; opening again: %v", where, err)
	}
	defer s.Close()
	if err := store.CheckStore(dir); err != nil {
		t.Errorf("%s failed; opened again: %v", where, err)
	}
	if err := useStore(s, t, files); err != nil {
		t.Errorf("%s failed; after opening again: %v", where, err)
	}
	if err := errors.Join(used(s, t, files), store.CheckStore(dir)); err != nil {
		t.Errorf("%s failed; done after opening again: %v", where, err)
	}
	return true
}

// Bytes whose fsync failed are thrown away, though a second fsync would succeed; what
// was synced beside them is still good.
func TestBytesThatCouldNotBeSyncedAreDiscardedAndTheOthersKept(t *testing.T) {
	dir := t.TempDir()
	c := &counter{nth: 1 << 30}
	bad := storetest.File(t, "bad.bin", random(1, 100), true)
	s, err := store.OpenWith(store.Config{Dir: dir}, durabletest.Ops{Fault: func(op durabletest.Op, path string) (bool, error) {
		if op == durabletest.Sync && strings.Contains(path, bad.Digest.Hex()) && !c.stopped {
			c.stopped = true
			return true, errInjected
		}
		return true, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	good := storetest.File(t, "good.bin", random(2, 100), true)
	ins := []*store.Ingest{begin(t, s, originA, bad), begin(t, s, originA, good)}
	for i, seed := range []uint64{1, 2} {
		write(t, ins[i], random(seed, 100))
		if err := ins[i].Verify(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Commit(t.Context(), ins); !errors.Is(err, errInjected) || !strings.Contains(err.Error(), bad.Digest.Hex()) {
		t.Fatalf("Commit says %v", err)
	}
	if err := s.Commit(t.Context(), ins[:1]); err == nil || s.HasBlob(bad.Digest) {
		t.Error("the bytes whose fsync failed were admitted")
	}
	if err := s.Commit(t.Context(), ins[1:]); err != nil || !s.HasBlob(good.Digest) {
		t.Errorf("the other bytes were not: %v", err)
	}
	ins[0].Close()
	again := begin(t, s, originA, bad)
	if len(again.Missing()) != 1 {
		t.Error("the bytes whose fsync failed are taken up again")
	}
	write(t, again, random(1, 100))
	if err := errors.Join(again.Verify(), s.Commit(t.Context(), []*store.Ingest{again})); err != nil {
		t.Error(err)
	}
	mustCheck(t, dir)
}

// The order of writing that doc.go promises, from a record of every operation.
func TestNothingHasANameBeforeWhatItStandsOnIsSynced(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	done := map[string]int{} // "op path" to when it was last done
	now := 0
	var violations []string

	after := func(op durabletest.Op, path string) {
		rel, _ := filepath.Rel(dir, path)
		mu.Lock()
		defer mu.Unlock()
		now++
		done[string(op)+" "+rel] = now
	}
	needs := func(what string, ops ...string) {
		last := 0
		for _, op := range ops {
			if done[op] <= last {
				violations = append(violations, fmt.Sprintf("%s: %q was not done, or not after what goes before it", what, op))
			}
			last = done[op]
		}
	}
	files := smallFiles()
	files["large.bin"] = random(3, twoPieces)
	m := storetest.Manifest(t, repoA, commit1, files, isLFS)
	fault := func(op durabletest.Op, path string) (bool, error) {
		rel, _ := filepath.Rel(dir, path)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case op == durabletest.Rename && strings.HasPrefix(rel, "blobs/"):
			for _, f := range m.Files {
				if f.Digest.Hex() != filepath.Base(rel) {
					continue
				}
				data := "ingests/" + store.IngestName(originA, f.Digest)
				if f.Size == twoPieces {
					data += "/data"
					sums := strings.Replace(rel, "blobs", "sums", 1)
					needs(rel, "rename "+sums, "sync "+filepath.Dir(sums))
				}
				needs(rel, "sync "+data, "sync origins/model/org--model-a")
				needs(rel, "sync origins/model")
			}
		case op == durabletest.Link:
			for _, f := range m.Files {
				if strings.HasSuffix(rel, "/"+f.Path.String()) {
					blob := fmt.Sprintf("blobs/%s/%s/%s", f.Digest.Algorithm(), f.Digest.Hex()[:2], f.Digest.Hex())
					needs(rel, "rename "+blob, "sync "+filepath.Dir(blob))
				}
			}
		case op == durabletest.Rename && filepath.Dir(rel) == "views":
			part := rel + ".partial"
			needs(rel, "link "+part+"/root/sub/dir/same.txt", "sync "+part+"/root/sub/dir", "rename "+part+"/view.json", "sync "+part)
			needs(rel, "link "+part+"/root/README.md", "sync "+part+"/root")
			needs(rel, "sync "+part+"/root/sub")
		}
		return true, nil
	}
	s, err := store.OpenWith(store.Config{Dir: dir}, durabletest.Ops{Fault: fault, After: after})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	storetest.Fill(t, s, repoA, commit1, files, isLFS)
	view := mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m, volume("1"))
	mu.Lock()
	needs("the view's path", "rename views/"+view.ID, "sync views", "rename pins/"+volume("1").Pin()+".json", "sync pins")
	mu.Unlock()
	for _, v := range violations {
		t.Error(v)
	}
	mustCheck(t, dir)
}
