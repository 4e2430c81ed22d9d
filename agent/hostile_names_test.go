package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Names that mean something to a shell, a terminal, another file system, git-lfs, the
// Hub's cache or our own are only names: each is a plain file of its own with its own
// content, in both Layouts, before and after a restart.
func TestHostileNamesThatAreOnlyNamesAreMountedAsTheyAre(t *testing.T) {
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + zeros64 + "\nsize 10000000000000\n"
	for _, c := range []struct {
		name  string
		files map[string]string
	}{
		{"that differ in case", map[string]string{"Config.json": "1", "config.json": "2", "CONFIG.JSON": "3", "a/b": "4", "A/b": "5"}},
		{"that look alike", map[string]string{
			"caf\u00e9.txt": "composed", "cafe\u0301.txt": "decomposed", "\u0430.txt": "cyrillic", "a.txt": "latin",
			"\ufb01le": "ligature", "file": "letters", "k\u212a": "kelvin", "kk": "k",
		}},
		{"that paint themselves", map[string]string{
			"model\u202egpj.bin": "right to left", "\u2066safe\u2069.txt": "isolated", "zero\u200bwidth": "z", "\ufeffbom": "b",
			"\u2028line": "l", "\u0085next": "n", "tag\U000e0041": "t",
		}},
		{"that mean something to a shell", map[string]string{
			"-rf": "1", "--help": "2", "$(reboot)": "3", "`reboot`": "4", "a;b": "5", "*": "6", "~": "7", " ": "8", "a b": "9", "'": "10", "\"": "11", "|": "12",
		}},
		{"that mean something elsewhere", map[string]string{
			`..\..\windows`: "1", `C:\`: "2", "CON": "3", "nul.txt": "4", "a:stream": "5", "%2e%2e%2fetc": "6", "git~2": "7", ".gitmodules": "8", ".gitattributes": "9",
		}},
		{"of dots", map[string]string{"...": "1", "..a": "2", "a..": "3"}},
		{"of our own", map[string]string{
			".partial": "1", "view.json": "2", "root/view.json": "3", "trees/x.json": "4", "refs/main": "5", "views/x.partial/root": "6", "pins/0.json": "7",
			"lock": "8", "version": "9", ".tmp-1": "10", "ingests/data": "11", "blobs": "12", "quarantine/x": "13", "journal": "14", "snapshots/" + evilCommit: "15",
		}},
		{"of the Hub's cache", map[string]string{
			"CACHEDIR.TAG": "1", ".locks/models--evil--repo/x": "2", "models--evil--repo/refs/main": "3", "models--evil--repo/snapshots": "4",
			"snapshots/" + evilCommit + "/config.json": "5", ".no_exist/x": "6", "blobs/" + zeros64: "7", "refs/refs/pr/1": "8",
		}},
		{"of links that are none", map[string]string{"config.json": pointer, "model.safetensors": "../../../../etc/passwd", "link": "/etc/shadow\x00", "dir/.gitattributes": "* filter=lfs"}},
		{"as long as may be", map[string]string{
			strings.Repeat("n", 255): "1", strings.Repeat("\U0001f9a0", 63): "2", strings.Repeat(strings.Repeat("d", 255)+"/", 11) + strings.Repeat("e", 255): "3",
		}},
		{"as deep as may be", map[string]string{strings.Repeat("d/", 63) + "f": "1", strings.Repeat("d/", 62) + "f": "2", "d/f": "3", "f": "4"}},
	} {
		for _, layout := range []store.Layout{store.Snapshot, store.HubCache} {
			t.Run(c.name+"/"+string(layout), func(t *testing.T) { mountedAsTheyAre(t, c.files, layout) })
		}
	}
}

func mountedAsTheyAre(t *testing.T, names map[string]string, layout store.Layout) {
	w := newWorld(t)
	w.dir = fence(t)
	w.start()
	files := map[string][]byte{}
	for name, content := range names {
		files[name] = []byte(content)
	}
	commit := w.hub.AddRepo(evilRepo, files)
	req := request("v", evilRepo, func(r *agent.Request) { r.Layout = layout })
	var m agent.Mountable
	took, grew := measure(func() { m = w.must(req) })
	bounds(t, took, 10e9, grew, 32<<20)
	for _, when := range []string{"at first", "after a restart"} {
		shown := m
		if layout == store.HubCache {
			shown.View = filepath.Join(m.View, "models--evil--repo/snapshots", commit)
			hubCacheIsWhole(t, filepath.Join(w.dir, m.View), commit)
		}
		w.sees(shown, files)
		if again := w.must(req); again.View != m.View || t.Failed() {
			t.Fatalf("%s the View is %s, not %s, or not as it should be", when, again.View, m.View)
		}
		w.restart()
	}
}

// hubCacheIsWhole checks that no file of the repository took the place of one of the
// Layout's own.
func hubCacheIsWhole(t *testing.T, root, commit string) {
	t.Helper()
	entries, err := os.ReadDir(root)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != ".locks CACHEDIR.TAG models--evil--repo" {
		t.Errorf("the Hub's cache holds %q", got)
	}
	if ref, err := os.ReadFile(filepath.Join(root, "models--evil--repo/refs/main")); err != nil || string(ref) != commit {
		t.Errorf("refs/main is %q, %v", ref, err)
	}
}

// Two repositories can never share a directory of the Hub's cache layout.
func TestHostileRepositoryNamesAreNone(t *testing.T) {
	for _, name := range []string{
		"evil/re--po", "evil--repo", "evil--/repo", "../evil", "evil/..", "evil/.", "/evil/repo", "evil/repo/", "evil/repo/refs", "evil/re\x00po", "evil/re\npo",
		"evil/repo.git", "evil/.hidden", "evil/-rf", "evil/re po", "evil/re%2fpo", "evil/r\u00e9po", "", "models/", "datasets/", "evil/" + strings.Repeat("n", 92),
	} {
		if r, err := fetcher.ParseRepo(name); err == nil {
			t.Errorf("%q is taken for the repository %q", name, r)
		}
	}
}
