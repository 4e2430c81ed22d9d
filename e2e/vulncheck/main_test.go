package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// made is an entry as the database has them: strings.ToUpper is vulnerable in every
// version of Go.
const made = `{
	"id": "GO-2026-99999",
	"summary": "a text", "details": "a long text",
	"affected": [{
		"package": {"name": "stdlib", "ecosystem": "Go"},
		"ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}],
		"ecosystem_specific": {"imports": [{"path": "strings", "symbols": ["ToUpper"]}]}
	}],
	"credits": [{"name": "a person"}]
}`

// calls is a module's main package that calls what made says is vulnerable, spares one
// that imports its package and does not.
const (
	calls  = "package main\n\nimport \"strings\"\n\nfunc main() { println(strings.ToUpper(\"a\")) }\n"
	spares = "package main\n\nimport \"strings\"\n\nfunc main() { println(strings.TrimSpace(\"a\")) }\n"
)

// tree writes files, each name and content, into a new directory.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func module(t *testing.T, source string) string {
	t.Helper()
	return tree(t, "go.mod", "module scratch\n\ngo 1.26\n", "main.go", source)
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, said)
	}
}

// renewed is a snapshot of a clone that holds only the given entry.
func renewed(t *testing.T, id, entry string) []byte {
	t.Helper()
	clone := tree(t, "data/osv/"+id+".json", entry)
	run(t, clone, "git", "init", "-q")
	run(t, clone, "git", "add", ".")
	run(t, clone, "git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "m")
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := renew(t.Context(), clone, path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// away is the URL of a database that is not there.
func away() string {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	return server.URL
}

func govulncheck(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "govulncheck")
	run(t, "../..", "go", "build", "-buildvcs=false", "-o", path, "golang.org/x/vuln/cmd/govulncheck")
	return path
}

func TestACalledVulnerabilityFailsTheCheckAndAnotherDoesNot(t *testing.T) {
	bad, good := module(t, calls), module(t, spares)
	program, clean := filepath.Join(bad, "program"), filepath.Join(good, "clean")
	run(t, bad, "go", "build", "-o", program)
	run(t, good, "go", "build", "-o", clean)
	c := check{govulncheck: govulncheck(t), db: away(), snapshot: renewed(t, "GO-2026-99999", made)}
	for name, row := range map[string]struct {
		modules []string
		binary  string
		fails   string
	}{
		"called":            {[]string{bad}, "", bad},
		"only imported":     {[]string{good}, "", ""},
		"called in one":     {[]string{bad, good}, "", bad},
		"called by binary":  {[]string{good}, program, program},
		"no such module":    {[]string{good + "x"}, "", good + "x"},
		"nothing to check":  {nil, "", "no module"},
		"no such binary":    {nil, program + "x", program + "x"},
		"binary calls none": {[]string{good}, clean, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, said := c, bytes.Buffer{}
			c.modules, c.binary, c.out = row.modules, row.binary, &said
			err := c.run(t.Context())
			if row.fails == "" && err != nil || row.fails != "" && (err == nil || !strings.Contains(err.Error(), row.fails)) {
				t.Errorf("error %v; want one with %q\n%s", err, row.fails, &said)
			}
		})
	}
}

func TestTheSnapshotServesWhenTheDatabaseIsAwayAndItsDateIsTold(t *testing.T) {
	broken := httptest.NewServer(http.NotFoundHandler())
	defer broken.Close()
	var of heading
	zr, err := gzip.NewReader(bytes.NewReader(snapshot))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(zr).Decode(&of); err != nil {
		t.Fatal(err)
	}
	for _, db := range []string{away(), broken.URL} {
		var said bytes.Buffer
		used, err := check{db: db, snapshot: snapshot, out: &said}.database(t.Context(), t.TempDir())
		if err != nil || !strings.HasPrefix(used, "file://") {
			t.Errorf("used %q, %v", used, err)
		}
		if of.Date == "" || !strings.Contains(said.String(), of.Date) || !strings.Contains(said.String(), db) {
			t.Errorf("said %q; want why not %s and the date, %q", &said, db, of.Date)
		}
	}
}

func TestTheDatabaseIsUsedWhenItAnswers(t *testing.T) {
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/index/db.json.gz" {
			http.NotFound(w, r)
		}
	}))
	defer there.Close()
	var said bytes.Buffer
	used, err := check{db: there.URL, out: &said}.database(t.Context(), t.TempDir())
	if err != nil || used != there.URL {
		t.Errorf("used %q, %v; want %s", used, err, there.URL)
	}
}

func TestASnapshotHoldsFactsAndNoTexts(t *testing.T) {
	zr, err := gzip.NewReader(bytes.NewReader(renewed(t, "GO-2026-99999", made)))
	if err != nil {
		t.Fatal(err)
	}
	var held bytes.Buffer
	if _, err := held.ReadFrom(zr); err != nil {
		t.Fatal(err)
	}
	if s := held.String(); strings.Contains(s, "text") || strings.Contains(s, "person") || !strings.Contains(s, `"symbols":["ToUpper"]`) {
		t.Errorf("it holds %s", s)
	}
}

func TestABadSnapshotIsAnErrorAndNeverAPass(t *testing.T) {
	whole := renewed(t, "GO-2026-99999", made)
	for name, bad := range map[string][]byte{
		"empty":             nil,
		"cut off":           whole[:len(whole)/2],
		"an id that climbs": renewed(t, "GO-2026-99999", strings.Replace(made, "GO-2026-99999", "../../GO-2026-99999", 1)),
	} {
		var said bytes.Buffer
		if used, err := (check{db: away(), snapshot: bad, out: &said}).database(t.Context(), t.TempDir()); err == nil {
			t.Errorf("%s: used %s", name, used)
		}
	}
}

// What CI falls back to is whole, knows the standard library and a module of ours, and
// stays small enough for a repository.
func TestTheSnapshotOfThisRepositoryIsSound(t *testing.T) {
	if len(snapshot) > 300<<10 {
		t.Errorf("%d bytes; want at most 300 KiB", len(snapshot))
	}
	dir := t.TempDir()
	if _, n, err := unpack(bytes.NewReader(snapshot), dir); err != nil || n < 4000 {
		t.Fatalf("%d vulnerabilities, %v", n, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "index", "modules.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"stdlib", "toolchain", "golang.org/x/net", "google.golang.org/grpc"} {
		if !bytes.Contains(data, []byte(`"path":"`+module+`"`)) {
			t.Errorf("it knows nothing of %s", module)
		}
	}
}
