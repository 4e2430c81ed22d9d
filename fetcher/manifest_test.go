package fetcher_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestNewManifestSortsAndCounts(t *testing.T) {
	same := []byte("same content")
	files := []fetcher.File{fileOf(t, "b", same), fileOf(t, "a/c", same), fileOf(t, "a-", []byte("x")), fileOf(t, "e", nil)}
	before := slices.Clone(files)
	m, err := fetcher.NewManifest(testRevision, "hub", files)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, f := range m.Files {
		order = append(order, f.Path.String())
	}
	if !slices.Equal(order, []string{"a-", "a/c", "b", "e"}) || !slices.Equal(files, before) {
		t.Errorf("order %v; what was given is now %v", order, files)
	}
	if m.Bytes() != int64(len(same)+1) {
		t.Errorf("%d bytes", m.Bytes())
	}
	keep, err := fetcher.NewFilter([]string{"a*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if sel, err := m.Select(t.Context(), keep); err != nil || len(sel.Files) != 2 || sel.Revision != m.Revision || sel.Authority != "hub" || len(m.Files) != 4 || sel.Check() != nil {
		t.Errorf("%+v, %v", sel, err)
	}
	text, err := json.Marshal(m)
	var again fetcher.Manifest
	if err != nil || json.Unmarshal(text, &again) != nil || again.Check() != nil || !slices.Equal(again.Files, m.Files) {
		t.Errorf("%s: %v", text, err)
	}
}

func TestNewManifestRefusesWhatNoTreeIs(t *testing.T) {
	a, b := fileOf(t, "a", []byte("a")), fileOf(t, "b", []byte("b"))
	sized := func(f fetcher.File, n int64) fetcher.File { f.Size = n; return f }
	at := func(f fetcher.File, path string) fetcher.File { f.Path = pathOf(t, path); return f }
	for name, c := range map[string]struct {
		rev   fetcher.Revision
		auth  string
		files []fetcher.File
	}{
		"no revision":        {fetcher.Revision{}, "hub", nil},
		"no commit":          {fetcher.Revision{Repo: testRevision.Repo}, "hub", nil},
		"no authority":       {testRevision, "", nil},
		"no path":            {testRevision, "hub", []fetcher.File{{Digest: a.Digest}}},
		"no digest":          {testRevision, "hub", []fetcher.File{{Path: a.Path}}},
		"a path twice":       {testRevision, "hub", []fetcher.File{a, at(b, "a")}},
		"negative":           {testRevision, "hub", []fetcher.File{sized(a, -1)}},
		"too much":           {testRevision, "hub", []fetcher.File{sized(a, math.MaxInt64), sized(b, 1)}},
		"two sizes":          {testRevision, "hub", []fetcher.File{a, at(sized(a, 2), "b")}},
		"file and directory": {testRevision, "hub", []fetcher.File{a, at(b, "a/b")}},
		"... with one apart": {testRevision, "hub", []fetcher.File{a, at(b, "a-"), at(fileOf(t, "c", nil), "a/b/c")}},
		"... deeper":         {testRevision, "hub", []fetcher.File{at(a, "x/y"), at(b, "x/y/z")}},
	} {
		if _, err := fetcher.NewManifest(c.rev, c.auth, c.files); err == nil {
			t.Errorf("%s: it was taken", name)
		} else if c.auth != "" && len(c.files) > 0 && !strings.Contains(err.Error(), "org/name@") {
			t.Errorf("%s: %v", name, err)
		}
	}
	unsorted := fetcher.Manifest{Revision: testRevision, Authority: "hub", Files: []fetcher.File{b, a}}
	if unsorted.Check() == nil {
		t.Error("a manifest out of order was taken")
	}
}

func TestManifestIsBounded(t *testing.T) {
	most := fileOf(t, "most", nil)
	most.Size = 1 << 46
	if _, err := fetcher.NewManifest(testRevision, "hub", []fetcher.File{most}); err != nil {
		t.Error(err)
	}
	huge := most
	huge.Size++
	deep := make([]fetcher.File, 0, 2001) // of 50 directories each
	for i := range cap(deep) {
		deep = append(deep, fileOf(t, fmt.Sprintf("%04d", i)+strings.Repeat("/d", 50), nil))
	}
	for want, files := range map[string][]fetcher.File{
		"most: a size of 70368744177665 bytes":    {huge},
		"1000001 files":                           make([]fetcher.File, fetcher.MaxFiles+1),
		"100050 directories are more than 100000": deep,
	} {
		if _, err := fetcher.NewManifest(testRevision, "hub", files); err == nil || !strings.Contains(err.Error(), "org/name@") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := fetcher.NewManifest(testRevision, "hub", deep[:2000]); err != nil {
		t.Error(err)
	}
}

func FuzzNewManifest(f *testing.F) {
	f.Add("a", "a/b", "c", int64(1), int64(2), int64(3))
	f.Add("a", "b", "a", int64(0), int64(0), int64(-1))
	f.Add("x/y", "x/y/z", "x", int64(math.MaxInt64), int64(1), int64(1))
	f.Fuzz(func(t *testing.T, p1, p2, p3 string, s1, s2, s3 int64) {
		var files []fetcher.File
		for i, s := range []string{p1, p2, p3} {
			p, err := fetcher.ParsePath(s)
			if err != nil {
				return
			}
			d, err := fetcher.NewDigest(fetcher.GitBlobSHA1, fmt.Sprintf("%040d", i%2))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, fetcher.File{Path: p, Digest: d, Size: []int64{s1, s2, s3}[i]})
		}
		m, err := fetcher.NewManifest(testRevision, "hub", files)
		if err != nil {
			return
		}
		// All of them can be made below one directory.
		made := map[string]string{}
		for _, file := range m.Files {
			parts := strings.Split(file.Path.String(), "/")
			for i := range parts {
				kind := "directory"
				if i == len(parts)-1 {
					kind = "file"
				}
				name := strings.Join(parts[:i+1], "/")
				if was, ok := made[name]; ok && (was == "file" || kind == "file") {
					t.Errorf("%q is a %s and a %s", name, was, kind)
				}
				made[name] = kind
			}
		}
		if m.Bytes() < 0 {
			t.Errorf("%d bytes", m.Bytes())
		}
	})
}

func TestPiecesCoverAFileOnce(t *testing.T) {
	const p = fetcher.PieceSize
	for size, want := range map[int64]int{0: 0, 1: 1, p - 1: 1, p: 1, p + 1: 2, 5*p - 1: 5, 5 * p: 5} {
		if got := fetcher.Pieces(size); got != want {
			t.Errorf("%d bytes have %d pieces, want %d", size, got, want)
		}
		var end int64
		for i := range fetcher.Pieces(size) {
			piece := fetcher.PieceAt(i, size)
			if piece.Index != i || piece.Offset != end || piece.Size <= 0 || piece.Size > p {
				t.Errorf("piece %d of %d bytes is %+v", i, size, piece)
			}
			end += piece.Size
		}
		if end != size {
			t.Errorf("the pieces of %d bytes end at %d", size, end)
		}
	}
}
