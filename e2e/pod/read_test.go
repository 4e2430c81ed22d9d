package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ballast-csi/ballast/e2e/pod/report"
	"golang.org/x/sys/unix"
)

// tree makes a directory of 40 files, one of them of 3 MiB and one empty, in two
// sub-folders.
func tree(t *testing.T, dir string) {
	t.Helper()
	for i := range 40 {
		path := filepath.Join(dir, []string{"a", "a/b"}[i%2], fmt.Sprintf("file-%02d", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		content := []byte(path)
		switch i {
		case 38:
			content = bytes.Repeat([]byte("large"), 3<<20/5)
		case 39:
			content = nil
		}
		if err := os.WriteFile(path, content, 0o444); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSumTellsEveryEntry(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir)
	if err := os.Symlink("/etc", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	out, err := pod(t, "sum", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got report.Sum
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	kinds, size := map[string]int{}, int64(0)
	for _, e := range got.Entries {
		kinds[e.Type]++
		if e.Type != "file" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Path))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		if e.SHA256 != hex.EncodeToString(sum[:]) || e.Size != int64(len(content)) || e.Mode != "0444" {
			t.Errorf("%+v", e)
		}
		size += e.Size
	}
	if kinds["file"] != 40 || kinds["directory"] != 2 || kinds["symlink"] != 1 || got.Files != 40 || got.Bytes != size || got.Seconds <= 0 {
		t.Errorf("%v; %d files of %d bytes in %v s", kinds, got.Files, got.Bytes, got.Seconds)
	}
}

func TestSumOfWhatCannotBeReadFails(t *testing.T) {
	cmd := pod(t, "sum", filepath.Join(t.TempDir(), "absent"))
	cmd.Stderr = nil
	if out, err := cmd.Output(); err == nil || len(out) > 0 {
		t.Errorf("%s, %v", out, err)
	}
	dir := t.TempDir()
	tree(t, dir)
	broken := filepath.Join(dir, "a", "b", "file-01")
	if err := unix.Mount("/proc/self/mem", broken, "", unix.MS_BIND, ""); err != nil { // it opens, and does not read
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(broken, unix.MNT_DETACH) }()
	cmd = pod(t, "sum", dir)
	cmd.Stderr = nil
	if out, err := cmd.Output(); err == nil || len(out) > 0 {
		t.Errorf("%s, %v", out, err)
	}
}

func TestRereadGoesOnUntilAByteIsAnother(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir)
	cmd := pod(t, "reread", dir)
	cmd.Stderr = nil
	out := lines(t, cmd)
	next := func() report.Round {
		t.Helper()
		var r report.Round
		if !out.Scan() {
			t.Fatal("no further round")
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for n := 1; n <= 3; n++ {
		if r := next(); r.Round != n || r.Files != 40 || r.Bytes < 3<<20-5 || r.Error != "" || r.Started.IsZero() {
			t.Errorf("round %d: %+v", n, r)
		}
	}
	if err := scribble(filepath.Join(dir, "a", "b", "file-01"), syscall.O_RDWR, '/'); err != nil {
		t.Fatal(err)
	}
	r := next()
	if r.Error == "" {
		r = next() // that file had been read already
	}
	if r.Error == "" || out.Scan() {
		t.Fatalf("%+v, then %s", r, out.Text())
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended as if all were well")
	}
}

func TestRereadEndsWellOnSIGTERM(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir)
	cmd := pod(t, "reread", dir)
	out := lines(t, cmd)
	out.Scan()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
