package hubapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

// manifestOf has a small file at each path; what a Manifest cannot hold is false.
func manifestOf(t testing.TB, paths []string) (*fetcher.Manifest, bool) {
	t.Helper()
	repo, err := fetcher.ParseRepo("org/name")
	if err != nil {
		t.Fatal(err)
	}
	commit, err := fetcher.ParseCommit(strings.Repeat("ab", 20))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := fetcher.NewDigest(fetcher.GitBlobSHA1, strings.Repeat("cd", 20))
	if err != nil {
		t.Fatal(err)
	}
	var files []fetcher.File
	for _, s := range paths {
		path, err := fetcher.ParsePath(s)
		if err != nil {
			return nil, false
		}
		files = append(files, fetcher.File{Path: path, Size: 1, Digest: digest})
	}
	m, err := fetcher.NewManifest(fetcher.Revision{Repo: repo, Commit: commit}, "hub", files)
	return m, err == nil
}

// below is what a listing has, found the slow way.
func below(paths []string, dir string, recursive bool) []string {
	found := map[string]bool{}
	for _, p := range paths {
		rest := p
		if dir != "" {
			var ok bool
			if rest, ok = strings.CutPrefix(p, dir+"/"); !ok {
				continue
			}
		}
		parts := strings.Split(rest, "/")
		for i := range parts {
			place := strings.TrimSuffix(p, rest) + strings.Join(parts[:i+1], "/")
			if i < len(parts)-1 {
				place += "/"
			}
			if recursive || i == 0 {
				found[place] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// FuzzEntries: pages of any size are together what there is, each entry once, and a
// cursor that nobody gave is harmless.
func FuzzEntries(f *testing.F) {
	f.Add("a\nb/c\nb/d/e\nb.txt\nb0", "", true, "", uint8(1))
	f.Add("a/b/c\na/b.c\na-b/c\na/b/c-d/e", "a", false, "a/b/", uint8(2))
	f.Add("a/b/c\na0/b\nab\nb/c", "", false, "a/b", uint8(1))
	f.Add("x/y/z/1\nx/y/2\nx/y!/3", "x/y", true, "x/y\xff", uint8(3))
	f.Fuzz(func(t *testing.T, list, dir string, recursive bool, cursor string, limit uint8) {
		paths := strings.Split(list, "\n")
		m, ok := manifestOf(t, paths)
		if _, err := fetcher.ParsePath(dir); !ok || limit == 0 || err != nil && dir != "" {
			return
		}
		want := below(paths, dir, recursive)
		var got []string
		for after := ""; ; {
			page := 0
			for e := range entries(m, dir, recursive, after) {
				if page++; page > int(limit) {
					break
				}
				got = append(got, e.place())
			}
			if page <= int(limit) || len(got) > len(want) {
				break
			}
			after = got[len(got)-1]
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q below %q (recursive: %v): got %q; want %q", paths, dir, recursive, got, want)
		}
		for e := range entries(m, dir, recursive, cursor) {
			if e.place() <= cursor || !slices.Contains(want, e.place()) {
				t.Fatalf("beyond the cursor %q stands %q", cursor, e.place())
			}
		}
		if dir != "" && hasDir(m, dir) != (len(want) > 0) {
			t.Fatalf("%q is a directory: %v; below it are %q", dir, hasDir(m, dir), want)
		}
	})
}

// A page of a large listing costs what the page holds: a hostile repository has a
// million files, and a pod asks for each of its pages.
func TestAPageDoesNotCostItsWholeListing(t *testing.T) {
	const files = 20_000
	paths := make([]string, files)
	for i := range paths {
		paths[i] = fmt.Sprintf("d%03d/e/f%06d", i%100, i)
	}
	m, ok := manifestOf(t, paths)
	if !ok {
		t.Fatal("no such manifest")
	}
	for _, recursive := range []bool{true, false} {
		allocated := testing.AllocsPerRun(1, func() {
			n := 0
			for range entries(m, "", recursive, "d050/e/f0") {
				if n++; n == 40 {
					break
				}
			}
			if n != 40 {
				t.Errorf("%d entries", n)
			}
		})
		if allocated > 40*20 {
			t.Errorf("recursive %v: 40 entries of %d files took %.0f allocations", recursive, files, allocated)
		}
	}
}
