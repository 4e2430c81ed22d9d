package durable_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/agent/store/durable/durabletest"
)

// plant makes n directories in the directory root, and returns the Tree of all.
func plant(t *testing.T, ops durable.Ops, root string, n int) *durable.Tree {
	t.Helper()
	tree, err := durable.New(ops).Tree(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	for i := range n {
		if err := os.Mkdir(filepath.Join(root, fmt.Sprint(i)), 0o755); err != nil {
			t.Fatal(err)
		}
		tree.Dir(fmt.Sprint(i))
	}
	return tree
}

func TestTreeSyncsEachDirectoryOnceOrManyWithTheirFileSystem(t *testing.T) {
	for n, want := range map[int]string{0: "sync .", 2: "sync ., sync 0, sync 1", 2000: "syncfs ."} {
		dir := t.TempDir()
		ops, notes := record(dir)
		if err := plant(t, ops, dir, n).Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := notes()
		slices.Sort(got) // side by side
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%d directories: did  %.200s\nwant %s", n, got, want)
		}
	}
}

func TestTreeTellsWhatCouldNotBeSynced(t *testing.T) {
	for _, n := range []int{2, 2000} {
		for _, apply := range []bool{false, true} {
			fault := func(durabletest.Op, string) (bool, error) { return apply, errInjected }
			if err := plant(t, durabletest.Ops{Fault: fault}, t.TempDir(), n).Sync(t.Context()); !errors.Is(err, errInjected) {
				t.Errorf("%d directories (applied %v): Sync says %v", n, apply, err)
			}
		}
	}
}

func TestTreeEndsWithItsContextBetweenTwoDirectories(t *testing.T) {
	for _, n := range []int{1000, 2000} {
		ctx, cancel := context.WithCancel(t.Context())
		dir := t.TempDir()
		ops, notes := record(dir)
		if n == 2000 {
			cancel()
		}
		ops.Fault = func(durabletest.Op, string) (bool, error) {
			cancel()
			return true, nil
		}
		if err := plant(t, ops, dir, n).Sync(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%d directories: Sync says %v", n, err)
		}
		if done := len(notes()); done > 20 {
			t.Errorf("%d directories: %d were synced after the context had ended", n, done)
		}
	}
}
