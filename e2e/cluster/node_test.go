package cluster

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// cacheDir is the cache's, as seen on the node.
const cacheDir = "/var/lib/ballast"

// onDisk is the path of a node's file, as the tests reach it.
func (w *world) onDisk(path string) string { return w.machine.Root() + path }

// traces are what the node has of p: mounts, pins, and kubelet's directory.
func (w *world) traces(t *testing.T, p *corev1.Pod) []string {
	t.Helper()
	var found []string
	mounts, err := w.machine.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(mounts) {
		if strings.Contains(line, string(p.UID)) {
			found = append(found, "mounted: "+strings.TrimSpace(line))
		}
	}
	pins, err := filepath.Glob(w.onDisk(cacheDir + "/pins/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pin := range pins {
		content, err := os.ReadFile(pin)
		if err == nil && bytes.Contains(content, []byte(p.UID)) {
			found = append(found, fmt.Sprintf("pinned: %s", content))
		}
	}
	if dir := "/var/lib/kubelet/pods/" + string(p.UID); exists(w.onDisk(dir)) {
		found = append(found, "on disk: "+dir)
	}
	return found
}

// noTraces waits until the node has nothing of p any more.
func (w *world) noTraces(t *testing.T, p *corev1.Pod, limit time.Duration) {
	t.Helper()
	if w.machine == nil {
		return // out of reach
	}
	eventually(t, limit, func() string { return strings.Join(w.traces(t, p), "\n") })
}

// cacheState describes every entry of the cache, by path: two of them are equal if
// and only if the cache was not touched.
func (w *world) cacheState(t *testing.T, below string) map[string]string {
	t.Helper()
	root := w.onDisk(filepath.Join(cacheDir, below))
	state := map[string]string{}
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%s %d:%d %d bytes, %d links, modified %s, changed %d.%09d", info.Mode(), s.Uid, s.Gid, info.Size(), s.Nlink,
			info.ModTime().UTC().Format(time.RFC3339Nano), s.Ctim.Sec, s.Ctim.Nsec)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(", sha256 %x", sha256.Sum256(content))
		}
		state[strings.TrimPrefix(path, root)] = text
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return state
}

// processes are those of Ballast's subcommand on the node.
func (w *world) processes(t *testing.T, subcommand string) []int {
	t.Helper()
	pids, err := w.machine.Processes("/ballast", subcommand)
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
