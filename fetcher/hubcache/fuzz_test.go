package hubcache

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/ballast-csi/ballast/fetcher"
)

// FuzzTree: whatever a tree's file holds, its files are such that a Manifest may hold
// them, or the error says why not and can be shown to anyone.
func FuzzTree(f *testing.F) {
	sample := fetcher.File{Path: pathOf(f, "a/b.safetensors"), Size: 5, Digest: digestBy(f, fetcher.SHA256, "hello"), XetHash: strings.Repeat("*", 64)}
	f.Add([]byte(treeText(f, sample, fileOf(f, "config.json", "{}"))))
	for _, s := range []string{
		`{"files":{"a":{"size":1,"blob_id":"` + commitA + `"}},"format_version":1}`,
		`{"format_version":1,"files":{"../a":{"size":-1,"blob_id":""}},"x":[{}]}`, `{"files":{},"files":{},"format_version":1}`, `{"files":[`, `{"a`, `[]`, `1e999`,
	} {
		f.Add([]byte(s))
	}
	rev := revOf(f, "org/name", commitA)
	f.Fuzz(func(t *testing.T, text []byte) {
		files, err := parseTree(bytes.NewReader(text), 10)
		switch {
		case err == nil:
			for _, file := range files {
				if file.Path.IsZero() || file.Digest.IsZero() || len(files) > 10 {
					t.Errorf("%+v of %d files", file, len(files))
				}
			}
			_, err = fetcher.NewManifest(rev, "pvc", files)
		case errors.Is(err, errNoTree) == errors.Is(err, fetcher.ErrMalformed):
			t.Errorf("neither ignored nor refused, or both: %v", err)
		}
		if err != nil && (len(err.Error()) > 5000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) })) {
			t.Errorf("not fit to show: %q", err)
		}
	})
}

// FuzzRefFile: what is taken for a commit is one, and nothing else was in the file.
func FuzzRefFile(f *testing.F) {
	for _, s := range []string{commitA, commitA + "\n", commitA + "\r\n", "", commitA[:39], strings.ToUpper(commitA), "ref: refs/heads/main\n", commitA + "\n" + commitB} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseRefFile(text)
		if err == nil && strings.TrimRight(strings.ToLower(string(text)), "\r\n") != c.String() || (err == nil) == c.IsZero() {
			t.Errorf("%q is %q, %v", text, c, err)
		}
	})
}
