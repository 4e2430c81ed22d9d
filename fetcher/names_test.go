package fetcher_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestParseRepo(t *testing.T) {
	for s, want := range map[string]struct {
		kind fetcher.Kind
		name string
	}{
		"Qwen/Qwen3-0.6B":              {fetcher.Model, "Qwen/Qwen3-0.6B"},
		"gpt2":                         {fetcher.Model, "gpt2"},
		"models/org/name":              {fetcher.Model, "org/name"},
		"models/name":                  {fetcher.Model, "models/name"},
		"datasets/org/name":            {fetcher.Dataset, "org/name"},
		"datasets/squad":               {fetcher.Dataset, "squad"},
		"datasets":                     {fetcher.Model, "datasets"},
		"a/b":                          {fetcher.Model, "a/b"},
		"_a_/b.c-d_":                   {fetcher.Model, "_a_/b.c-d_"},
		"a/" + strings.Repeat("b", 94): {fetcher.Model, "a/" + strings.Repeat("b", 94)},
	} {
		r, err := fetcher.ParseRepo(s)
		if err != nil || r.Kind() != want.kind || r.Name() != want.name {
			t.Errorf("%q: %v %v, %v", s, r.Kind(), r.Name(), err)
		}
		if again, err := fetcher.ParseRepo(r.String()); err != nil || again != r {
			t.Errorf("%q is %q, which reads as %q, %v", s, r, again, err)
		}
	}
	for _, s := range []string{
		"", "/", "a/", "/a", "a/b/c", "datasets/", "datasets/a/b/c", "spaces/a/b", "spaces/a", "models/datasets/a", "a--b", "a..b", "-a", "a-", ".a", "a.",
		"a/.b", "a/b.git", "a b", "a/b\n", "a/b\x00", "../a", "a/..", "a\\b", "a/b?c", "a/b#c", "a/b%2f", "ü/b", "a@b", "https://huggingface.co/a/b",
		strings.Repeat("a", 97),
	} {
		if r, err := fetcher.ParseRepo(s); err == nil || !r.IsZero() || !strings.Contains(err.Error(), "org/name") {
			t.Errorf("%q reads as %q, %v", s, r, err)
		}
	}
	for _, name := range []string{"datasets/squad", "spaces/squad"} { // a model of that name would be a data set once it is read back
		if r, err := fetcher.NewRepo(fetcher.Model, name); err == nil {
			t.Errorf("%q is a model, %q", name, r)
		}
	}
	if _, err := fetcher.NewRepo("space", "a/b"); err == nil {
		t.Error("a space was taken")
	}
	if r, _ := fetcher.ParseRepo("org/name"); r.Flat() != "org--name" {
		t.Errorf("flat is %q", r.Flat())
	}
}

func TestParseRef(t *testing.T) {
	for _, s := range []string{"main", "v1.0", "refs/pr/1", "refs/convert/parquet", "feature/x-y_z", "ü", "a@b", "HEAD", "-", strings.Repeat("a", 255)} {
		r, err := fetcher.ParseRef(s)
		if s == "-" {
			if err == nil {
				t.Errorf("%q was taken", s)
			}
			continue
		}
		if err != nil || r.String() != s {
			t.Errorf("%q: %q, %v", s, r, err)
		}
		if _, pinned := r.Commit(); pinned {
			t.Errorf("%q pins a commit", s)
		}
	}
	for _, s := range []string{
		"", "@", "a..b", "a@{1}", "a.", "/a", "a/", "a//b", ".a", "a/.b", "..", "../a", "a.lock", "a.lock/b", "-x", "a/-b",
		"a b", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", `a\b`, "a\nb", "a\x00", "a\x7f", "\xff", strings.Repeat("a", 256),
	} {
		if r, err := fetcher.ParseRef(s); err == nil || !r.IsZero() {
			t.Errorf("%q reads as %q", s, r)
		}
	}
	const hex = "0123456789ABCDEF0123456789abcdef01234567"
	r, err := fetcher.ParseRef(hex)
	c, pinned := r.Commit()
	if err != nil || !pinned || c.String() != strings.ToLower(hex) || c.Ref() != r || c.Short() != "0123456" {
		t.Errorf("%v, %v, %v", r, c, err)
	}
}

func TestParseCommit(t *testing.T) {
	for _, s := range []string{"", "main", strings.Repeat("a", 39), strings.Repeat("a", 41), strings.Repeat("g", 40), strings.Repeat("ſ", 20)} {
		if c, err := fetcher.ParseCommit(s); err == nil || !c.IsZero() || c.Short() != "" {
			t.Errorf("%q reads as %q", s, c)
		}
	}
}

func TestParsePath(t *testing.T) {
	for _, s := range []string{
		"git", "a.git", ".git~1", "git~2", ".gi t", "x:.git", "gıt~1", ".g\u0301it", "e\u0301", "\u00e9", "a\u202eb", "A", // twins are two
		"a", "a/b", ".gitattributes", ".gitignore", "a/.gitx", "...", "..a", "a b", "ü", "a:b", "C:/x", `a\b`, "-rf", "~", "*", "%2e%2e",
		strings.Repeat("a", 255), strings.Repeat(strings.Repeat("a", 255)+"/", 12)[:3071], strings.Repeat("a/", 63) + "a",
	} {
		if p, err := fetcher.ParsePath(s); err != nil || p.String() != s {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
	for _, s := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/..", "../a", "a/../b", ".git", ".GIT/config", "a/.Git", ".git ", ".git.", ".git . ./x", "git~1", "GIT~1/config", "git~1.", ".git:x", ".git::$INDEX_ALLOCATION/config",
		".g\u200cit", "\ufeff.git", ".git\u206f", "a/.GI\u202eT /x", "a\x00", "a\nb", "\x1b", "a\x7f",
		"\xff", "a\xc0\xaf", strings.Repeat("a", 256), "a/" + strings.Repeat("ü", 128), strings.Repeat("a/", 64) + "a",
		strings.Repeat(strings.Repeat("a", 255)+"/", 12) + "ab",
	} {
		if p, err := fetcher.ParsePath(s); err == nil || !p.IsZero() || len(err.Error()) > 1200 {
			t.Errorf("%.20q reads as %.20q, %.100v", s, p, err)
		}
	}
}

func TestPathIsFitToPrint(t *testing.T) {
	for s, want := range map[string]string{
		"a/b c.json":          "a/b c.json",
		"ünïcode/日本語/e\u0301": "ünïcode/日本語/e\u0301",
		`quo"ted`:             `quo"ted`,
		"a\u202egpj.exe":      `"a\u202egpj.exe"`,
		"a\u0085b":            `"a\u0085b"`,
		"a\u2028b":            `"a\u2028b"`,
		"a\u200bb":            `"a\u200bb"`,
		"a\U000e0041":         `"a\U000e0041"`,
	} {
		f := fetcher.File{Path: pathOf(t, s)}
		for _, got := range []string{fmt.Sprint(f.Path), fmt.Sprintf("%s", f.Path), fmt.Sprintf("%v", f.Path), (&fetcher.MismatchError{File: f}).Error()[:len(want)]} {
			if got != want {
				t.Errorf("%q is shown as %s", s, got)
			}
		}
		if got := fmt.Sprintf("%q", f.Path); got != strconv.Quote(s) {
			t.Errorf("%q is quoted as %s", s, got)
		}
		if got := fmt.Sprintf("%+v %#v %x %.300s|%500s", f, f, f.Path, f.Path, f.Path); strings.ContainsAny(got, "\u202e\u0085\u2028\u200b\U000e0041") {
			t.Errorf("%q is shown in %q", s, got)
		}
		if f.Path.String() != s {
			t.Errorf("%q is %q", s, f.Path.String())
		}
	}
}

// What is read from JSON is checked as what is parsed.
func TestJSONCannotHoldABadName(t *testing.T) {
	var f fetcher.File
	var rev fetcher.Revision
	for text, into := range map[string]any{
		`{"path":"../x"}`: &f, `{"digest":"sha256:zz"}`: &f, `{"digest":"md5:00"}`: &f, `{"repo":"a//b"}`: &rev, `{"commit":"main"}`: &rev,
	} {
		if err := json.Unmarshal([]byte(text), into); err == nil {
			t.Errorf("%s was read: %+v", text, into)
		}
	}
	var ref fetcher.Ref
	if err := json.Unmarshal([]byte(`"a..b"`), &ref); err == nil {
		t.Errorf("read %q", ref)
	}
	text, err := json.Marshal(testRevision)
	if err != nil || json.Unmarshal(text, &rev) != nil || rev != testRevision {
		t.Errorf("%s reads as %v, %v", text, rev, err)
	}
}

func FuzzParseRepo(f *testing.F) {
	for _, s := range []string{"org/name", "gpt2", "datasets/org/name", "models/org/name", "a--b", "../x", "datasets/datasets/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := fetcher.ParseRepo(s)
		if err != nil {
			return
		}
		again, err := fetcher.ParseRepo(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %q, which reads as %q, %v", s, r, again, err)
		}
		if strings.ContainsAny(r.Flat(), "/\\\x00\n ") || r.Flat() == ".." || strings.HasPrefix(r.Flat(), ".") {
			t.Errorf("%q has the flat name %q", s, r.Flat())
		}
	})
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"main", "refs/pr/1", "v1.0", "a..b", ".x", strings.Repeat("A", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := fetcher.ParseRef(s)
		if err != nil {
			return
		}
		again, err := fetcher.ParseRef(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %q, which reads as %q, %v", s, r, again, err)
		}
		for _, part := range strings.Split(r.String(), "/") {
			if part == "" || part == "." || part == ".." {
				t.Errorf("%q was taken", s)
			}
		}
	})
}

func FuzzParseCommit(f *testing.F) {
	for _, s := range []string{strings.Repeat("a", 40), strings.Repeat("A", 40), strings.Repeat("ſ", 20), "main", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := fetcher.ParseCommit(s)
		if c.IsZero() != (err != nil) {
			t.Fatalf("%q reads as %s, %v", s, c, err)
		}
		if err == nil && (len(c.String()) != 40 || strings.Trim(c.String(), "0123456789abcdef") != "" || !strings.EqualFold(c.String(), s)) {
			t.Errorf("%q reads as %s", s, c)
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"a/b", "../a", "a/./b", ".git/x", "a\\..\\b", "ü", "a\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := fetcher.ParsePath(s)
		if err != nil {
			return
		}
		for _, part := range strings.Split(p.String(), "/") {
			if part == "" || part == "." || part == ".." || len(part) > 255 || strings.EqualFold(part, ".git") || strings.ContainsRune(part, 0) {
				t.Errorf("%q was taken", s)
			}
		}
		if shown := fmt.Sprint(p); strings.ContainsFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is shown as %s", s, shown)
		}
		if strings.Count(s, "/") > 63 || len(s) > 3072 {
			t.Errorf("%q was taken", s)
		}
	})
}
