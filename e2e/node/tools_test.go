package node

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestToolsAreBuiltOnceAndAnewWhenTheyChange(t *testing.T) {
	module := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		if err := os.WriteFile(filepath.Join(module, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	b := builder{cache: filepath.Join(t.TempDir(), "cache"), out: &said}
	built := 0
	build := func() string {
		t.Helper()
		dir := b.build(t.Context(), "tool-"+must(fingerprint(module))(t), func(dir string) *exec.Cmd {
			built++
			return exec.Command("touch", filepath.Join(dir, "tool"))
		})
		if _, err := os.Stat(filepath.Join(dir, "tool")); b.err != nil || err != nil {
			t.Fatalf("no tool: %v, %v", b.err, err)
		}
		return dir
	}
	first := build()
	if again := build(); again != first || built != 1 {
		t.Errorf("unchanged, it was built %d times, into %s and %s", built, first, again)
	}
	if err := os.WriteFile(filepath.Join(module, "go.sum"), []byte("another version"), 0o644); err != nil {
		t.Fatal(err)
	}
	if other := build(); other == first || built != 2 {
		t.Errorf("changed, it was built %d times, into %s", built, other)
	}
	if n := strings.Count(said.String(), "building tool-"); n != 2 {
		t.Errorf("two builds were told as %q", said.String())
	}
}

// TestFailedBuildLeavesNoTool: nor does it stand in the way of the next.
func TestFailedBuildLeavesNoTool(t *testing.T) {
	b := builder{cache: t.TempDir(), out: &strings.Builder{}}
	dir := b.build(t.Context(), "tool-1", func(string) *exec.Cmd { return exec.Command("sh", "-c", "echo no such module >&2; exit 1") })
	if b.err == nil || !strings.Contains(b.err.Error(), "build tool-1") || !strings.Contains(b.err.Error(), "no such module") {
		t.Errorf("a failed build says %v", b.err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed build left %s: %v", dir, err)
	}
	if left, _ := os.ReadDir(b.cache); len(left) != 0 {
		t.Errorf("a failed build left %v", left)
	}
}
