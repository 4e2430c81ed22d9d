package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// threats is the threat model. Its tables have three columns: what somebody may try,
// what stops it, and the tests that prove it.
const threats = "../../deploy/threat-model.md"

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// TestEveryThreatNamesATestThatThereIs: a line of the threat model is worth what its
// test is.
func TestEveryThreatNamesATestThatThereIs(t *testing.T) {
	text, err := os.ReadFile(threats)
	if err != nil {
		t.Fatal(err)
	}
	there := testsOfTheRepository(t)
	rows := 0
	for i, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) != 3 || strings.Contains(cells[0], "---") || strings.TrimSpace(cells[2]) == "test" {
			continue
		}
		rows++
		names := testName.FindAllStringSubmatch(cells[2], -1)
		if len(names) == 0 {
			t.Errorf("%s:%d names no test: %s", threats, i+1, line)
		}
		for _, n := range names {
			if !there[n[1]] {
				t.Errorf("%s:%d: there is no test %s", threats, i+1, n[1])
			}
		}
	}
	if rows < 20 {
		t.Errorf("%s has %d lines that are read as threats: is its form another now?", threats, rows)
	}
}

// testsOfTheRepository are the names of all test and fuzz functions, those of e2e too.
func testsOfTheRepository(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	files := token.NewFileSet()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "..", d.IsDir() && d.Name() == "build":
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
