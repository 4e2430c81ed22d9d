package fetcher_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// testdata/fnmatch.py made the table with the real huggingface_hub.
func TestFilterAgreesWithHuggingfaceHub(t *testing.T) {
	text, err := os.ReadFile("testdata/fnmatch.json")
	if err != nil {
		t.Fatal(err)
	}
	var table struct {
		Paths    []string
		Patterns map[string]string
	}
	if err := json.Unmarshal(text, &table); err != nil || len(table.Patterns) < 600 {
		t.Fatalf("%d patterns, %v", len(table.Patterns), err)
	}
	for pattern, want := range table.Patterns {
		include, err1 := fetcher.NewFilter([]string{pattern}, nil)
		exclude, err2 := fetcher.NewFilter(nil, []string{pattern})
		if err1 != nil || err2 != nil {
			t.Fatalf("%q: %v, %v", pattern, err1, err2)
		}
		for i, s := range table.Paths {
			p := pathOf(t, s)
			if got := include.Matcher()(p); got != (want[i] == '1') || exclude.Matcher()(p) == got {
				t.Errorf("%q includes %q: %v, excludes it: %v", pattern, s, got, !exclude.Matcher()(p))
			}
		}
	}
}

func pathOf(t testing.TB, s string) fetcher.Path {
	t.Helper()
	p, err := fetcher.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFilterCombinesPatternsAndIsComparable(t *testing.T) {
	f, err := fetcher.NewFilter([]string{"*.json", "onnx/", "*.json"}, []string{"onnx/old*"})
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]bool{"a.json": true, "x/y.json": true, "onnx/m": true, "onnx/old.json": false, "b.bin": false} {
		if f.Matcher()(pathOf(t, s)) != want {
			t.Errorf("%s: %v", s, !want)
		}
	}
	same, _ := fetcher.NewFilter([]string{"onnx/*", "*.json"}, []string{"onnx/old*"})
	other, _ := fetcher.NewFilter([]string{"onnx/*"}, []string{"onnx/old*"})
	if f != same || f == other || !slices.Equal(f.Include(), []string{"*.json", "onnx/*"}) || !slices.Equal(f.Exclude(), []string{"onnx/old*"}) {
		t.Errorf("%q %q", f.Include(), f.Exclude())
	}
	if none := (fetcher.Filter{}); !none.Matcher()(pathOf(t, "any/thing")) || none.Include() != nil {
		t.Error("the zero Filter is not open")
	}
}

func TestFilterRefusesPatternsThatAreNone(t *testing.T) {
	for _, s := range []string{"", "a\nb", "\x00", "\xff", "a\x7f", strings.Repeat("a", 1025)} {
		if _, err := fetcher.NewFilter([]string{s}, nil); err == nil || !strings.Contains(err.Error(), "include") {
			t.Errorf("include %q: %v", s, err)
		}
		if _, err := fetcher.NewFilter(nil, []string{"*", s}); err == nil || !strings.Contains(err.Error(), "exclude") {
			t.Errorf("exclude %q: %v", s, err)
		}
	}
}

func TestFilterBoundsEachList(t *testing.T) {
	numbered := func(n, length int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf("%0*d", length, i))
		}
		return list
	}
	for name, c := range map[string]struct {
		patterns []string
		ok       bool
	}{
		"64 patterns":            {numbered(64, 2), true},
		"65 patterns":            {numbered(65, 2), false},
		"one pattern many times": {slices.Repeat([]string{"*.json"}, 1000), true},
		"4 KiB":                  {append(numbered(4, 1023), "x"), false},
		"less than 4 KiB":        {append(numbered(3, 1024), "x"), true},
	} {
		_, err1 := fetcher.NewFilter(c.patterns, nil)
		_, err2 := fetcher.NewFilter(nil, c.patterns)
		if c.ok != (err1 == nil) || c.ok != (err2 == nil) {
			t.Errorf("%s: %v, %v", name, err1, err2)
		}
		if !c.ok && (!strings.Contains(fmt.Sprint(err1), "include") || !strings.Contains(fmt.Sprint(err1), "at most 64 patterns of 4096 bytes")) {
			t.Errorf("%s: %v", name, err1)
		}
	}
}

func TestHostilePatternsAreQuick(t *testing.T) {
	hostile := strings.Repeat("*a", 500) + "b"
	open := "*" + strings.Repeat("[/", 500) // sets that are never closed, and found so each time
	f, err := fetcher.NewFilter([]string{hostile, open + "x", open + "y", strings.Repeat("[", 1000)}, []string{strings.Repeat("[a-b]*", 170)})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, part := range []string{strings.Repeat("a", 200) + "/", strings.Repeat("[", 46) + "/"} {
		p := pathOf(t, strings.TrimSuffix(strings.Repeat(part, 3000/len(part)), "/"))
		for range 30 {
			f.Matcher()(p)
		}
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
}

// A listing of the most files there may be, with the longest paths, and the worst Filter.
func TestSelectEndsWithItsContext(t *testing.T) {
	filter, err := fetcher.NewFilter([]string{strings.Repeat("*a", 500) + "b"}, []string{strings.Repeat("*a", 499) + "c", strings.Repeat("*a", 498) + "d"})
	if err != nil {
		t.Fatal(err)
	}
	f := fileOf(t, strings.TrimSuffix(strings.Repeat(strings.Repeat("a", 255)+"/", 12), "/"), nil)
	m := &fetcher.Manifest{Revision: testRevision, Authority: "hub", Files: slices.Repeat([]fetcher.File{f}, fetcher.MaxFiles)}
	because := errors.New("nobody waits any more")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, because)
	defer cancel()
	began := time.Now()
	sel, err := m.Select(ctx, filter)
	if took := time.Since(began); !errors.Is(err, because) || sel != nil || !strings.Contains(err.Error(), "org/name@") || took > 5*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"*", "a/*", "[a-b]?", "[!]]*", "a\\b", "[", "x/", "[z-a]*"} {
		f.Add(s, "a/b.json")
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		p, err := fetcher.ParsePath(path)
		if err != nil {
			return
		}
		include, err := fetcher.NewFilter([]string{pattern}, nil)
		if err != nil {
			return
		}
		exclude, err := fetcher.NewFilter(nil, []string{pattern})
		if err != nil || include.Matcher()(p) == exclude.Matcher()(p) {
			t.Errorf("%q and %q: %v", pattern, path, err)
		}
		if again, err := fetcher.NewFilter(include.Include(), nil); err != nil || again != include {
			t.Errorf("%q is not stable: %v", pattern, err)
		}
		if !strings.ContainsAny(pattern, `*?[\/`) && include.Matcher()(p) != (pattern == strings.ReplaceAll(path, `\`, "/")) {
			t.Errorf("%q without wildcards and %q", pattern, path)
		}
	})
}
