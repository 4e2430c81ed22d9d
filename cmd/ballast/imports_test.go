package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ballast-csi/ballast"

// allowed is the law of the rooms: what each package, its tests aside, may import
// from this module, directly. A package that is not here has no place in the house.
// Imports run downward only: durable < store < agent < agentrpc; fetcher < agent;
// agentpb < agentrpc, csi; mount < csi; all < cmd.
var allowed = map[string][]string{
	"fetcher":                               {},
	"fetcher/hub":                           {"fetcher"},
	"fetcher/hub/hubtest":                   {"fetcher"},
	"fetcher/hubcache":                      {"fetcher"},
	"fetcher/modelexpress":                  {"fetcher", "fetcher/modelexpress/modelexpresspb"},
	"fetcher/modelexpress/modelexpresspb":   {},
	"fetcher/modelexpress/modelexpresstest": {"fetcher/modelexpress/modelexpresspb"},
	"fetcher/manifestfile":                  {"fetcher"},
	"fetcher/sourcetest":                    {"fetcher"},
	"agent/agentpb":                         {},
	"agent/unixsock":                        {},
	"agent/store/durable":                   {},
	"agent/store":                           {"agent/store/durable", "fetcher"},
	"agent/store/durable/durabletest":       {"agent/store/durable"},
	"agent/store/storetest":                 {"agent/store", "fetcher"},
	"agent":                                 {"agent/store", "fetcher"},
	"agent/agentrpc":                        {"agent", "agent/agentpb", "agent/store", "agent/unixsock", "fetcher"},
	"agent/kube":                            {},
	"agent/hubapi":                          {"agent/store", "fetcher"},
	"csi":                                   {"agent/agentpb", "agent/unixsock", "csi/mount", "fetcher"},
	"csi/mount":                             {},
	"csi/mount/mounttest":                   {"csi/mount"},
	"cmd/ballast/settings":                  {},
	"cmd/ballast":                           {"agent", "agent/agentpb", "agent/agentrpc", "agent/hubapi", "agent/kube", "agent/store", "agent/unixsock", "cmd/ballast/settings", "csi", "csi/mount", "fetcher", "fetcher/hub", "fetcher/hubcache", "fetcher/manifestfile", "fetcher/modelexpress"},
}

// confined says which rooms alone may import an outside package, or anything below
// it, directly.
var confined = map[string][]string{
	"google.golang.org/grpc":                      {"agent/agentpb", "agent/agentrpc", "cmd/ballast", "csi", "fetcher/modelexpress", "fetcher/modelexpress/modelexpresspb", "fetcher/modelexpress/modelexpresstest"},
	"google.golang.org/protobuf":                  {"agent/agentpb", "agent/agentrpc", "cmd/ballast", "csi", "fetcher/modelexpress", "fetcher/modelexpress/modelexpresspb", "fetcher/modelexpress/modelexpresstest"},
	"github.com/container-storage-interface/spec": {"cmd/ballast", "csi"},
	"k8s.io/client-go":                            {"agent/kube"},
	"k8s.io/api":                                  {"agent/kube"},
	"k8s.io/apimachinery":                         {"agent/kube"},
	"k8s.io/klog":                                 {"agent/kube"},
	"github.com/go-logr/logr":                     {"agent/kube"},
	"k8s.io/kubelet":                              {"csi"},
	"net/http":                                    {"agent/hubapi", "cmd/ballast", "fetcher/hub", "fetcher/hub/hubtest"},
	"github.com/prometheus/client_golang":         {"agent", "cmd/ballast", "csi"},
	"github.com/spf13/cobra":                      {"cmd/ballast"},
	"github.com/spf13/pflag":                      {"cmd/ballast", "cmd/ballast/settings"},
	"go.yaml.in/yaml":                             {"cmd/ballast/settings"},
	"sigs.k8s.io/json":                            {"fetcher/manifestfile"},
	"github.com/pjbgf/sha1cd":                     {"fetcher"},
	"github.com/cespare/xxhash":                   {"agent/store"},
	"golang.org/x/sys":                            {"agent/store", "agent/store/durable", "agent/unixsock", "cmd/ballast", "csi", "csi/mount", "csi/mount/mounttest", "fetcher/hubcache"},
	"testing":                                     {"agent/store/storetest", "csi/mount/mounttest", "fetcher/hub/hubtest", "fetcher/sourcetest"},
	"github.com/google/go-containerregistry":      {},
	"github.com/matrixhub-ai/hfd":                 {},
	"github.com/kubernetes-csi/csi-test/v5/pkg":   {},
	"github.com/ballast-csi/ballast/e2e":          {},
}

// never says what a room must not reach, not even through others of this module.
var never = map[string][]string{
	"csi":              {"agent", "agent/agentrpc", "agent/hubapi", "agent/kube", "agent/store", "fetcher/hub"},
	"csi/mount":        {"agent/agentpb", "fetcher"},
	"agent/store":      {"agent", "agent/agentpb", "csi", "fetcher/hub"},
	"agent":            {"agent/agentpb", "agent/agentrpc", "agent/hubapi", "agent/kube", "csi", "csi/mount", "fetcher/hub"},
	"fetcher/hub":      {"agent", "agent/store", "csi"},
	"fetcher/hubcache": {"agent", "agent/store", "csi", "fetcher/hub"},
}

// listed is what "go list -json" tells of a package.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

// room is the package's path in this module, or "" for one of another.
func room(importPath string) string {
	r, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return r
}

// packages lists the module's packages by room.
func packages(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,GoFiles,Imports", "./...")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[room(p.ImportPath)] = p
	}
	if len(all) < 5 {
		t.Fatalf("go list named %d packages: the law would be held by none", len(all))
	}
	return all
}

func TestImportsRunDownward(t *testing.T) {
	for r, p := range packages(t) {
		may, known := allowed[r]
		if !known {
			t.Errorf("%s is no room of the house (allowed, in this file)", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if to := room(imported); to != "" && !slices.Contains(may, to) {
				t.Errorf("%s imports %s; it may import %v", r, to, may)
			}
		}
	}
}

func TestOutsidePackagesStayInTheirRooms(t *testing.T) {
	for r, p := range packages(t) {
		for _, imported := range p.Imports {
			for what, rooms := range confined {
				if (imported == what || strings.HasPrefix(imported, what+"/")) && !slices.Contains(rooms, r) {
					t.Errorf("%s imports %s, which belongs to %v", r, imported, rooms)
				}
			}
		}
	}
}

func TestRoomsNeverReachWhatTheyMustNotKnow(t *testing.T) {
	all := packages(t)
	for r, banned := range never {
		via := map[string]string{r: ""}
		for queue := []string{r}; len(queue) > 0; queue = queue[1:] {
			for _, imported := range all[queue[0]].Imports {
				to := room(imported)
				if _, seen := via[to]; to == "" || seen {
					continue
				}
				via[to] = queue[0]
				queue = append(queue, to)
				if slices.Contains(banned, to) {
					t.Errorf("%s must never know %s, and reaches it through %s", r, to, via[to])
				}
			}
		}
	}
}

// TestTheRootProcessStaysSmall: the CSI driver is privileged, so what it links is
// kept from what parses a network's answers.
func TestTheRootProcessStaysSmall(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./csi")
	cmd.Dir = "../.."
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, reached := range strings.Fields(string(text)) {
		if strings.HasPrefix(reached, "k8s.io/client-go") || strings.HasPrefix(reached, "k8s.io/apimachinery") || strings.HasPrefix(reached, "net/http/httptest") {
			t.Errorf("csi reaches %s", reached)
		}
	}
}

// TestOnlyDurableRenamesAndSyncs holds rule 6 of the manner: whoever else renames
// or syncs has no proof of what survives a crash. It reads syntax, not types: any
// use of a method Sync without arguments counts, but a logger's.
func TestOnlyDurableRenamesAndSyncs(t *testing.T) {
	for r, p := range packages(t) {
		if r == "agent/store/durable" {
			continue
		}
		for _, name := range p.GoFiles {
			for _, found := range durableCalls(t, filepath.Join(p.Dir, name)) {
				t.Errorf("%s: only agent/store/durable may do that", found)
			}
		}
	}
}

// durableCalls finds os.Rename, unix.Rename*, unix.Fsync and kin, and x.Sync().
func durableCalls(t *testing.T, file string) []string {
	t.Helper()
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{} // local name of an imported package → path
	for _, spec := range tree.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		local := path[strings.LastIndex(path, "/")+1:]
		if spec.Name != nil {
			local = spec.Name.Name
		}
		names[local] = path
	}
	var found []string
	takesArguments := map[ast.Expr]bool{} // such a Sync is durable's own
	ast.Inspect(tree, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && len(call.Args) > 0 {
			takesArguments[call.Fun] = true
		}
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		owner, isName := sel.X.(*ast.Ident)
		path := ""
		if isName {
			path = names[owner.Name]
		}
		bad := false
		switch path {
		case "os":
			bad = sel.Sel.Name == "Rename"
		case "syscall", "golang.org/x/sys/unix":
			bad = slices.Contains([]string{"Rename", "Renameat", "Renameat2", "Fsync", "Fdatasync", "Sync", "Syncfs", "SyncFileRange"}, sel.Sel.Name)
		case "":
			logger := strings.HasSuffix(strings.ToLower(lastName(sel.X)), "log") || strings.HasSuffix(strings.ToLower(lastName(sel.X)), "logger")
			bad = sel.Sel.Name == "Sync" && !takesArguments[sel] && !logger
		}
		if bad {
			found = append(found, fmt.Sprintf("%s: %s.%s", fset.Position(n.Pos()), lastName(sel.X), sel.Sel.Name))
		}
		return true
	})
	return found
}

// lastName is the last identifier of a chain of selectors: "log" of s.cfg.log.
func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.CallExpr:
		return lastName(e.Fun)
	}
	return ""
}

func TestDurableCallsAreFound(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.go")
	const src = `package x
import ("os"; sys "golang.org/x/sys/unix")
func f(a struct{ file *os.File; log, Log interface{ Sync() error } }) {
	_ = os.Rename("a", "b")
	_ = sys.Fsync(1)
	_ = a.file.Sync()
	_ = a.log.Sync()
	_ = a.Log.Sync()
	batch.Sync(a.file)
	_ = os.Remove("a")
}`
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	if found := durableCalls(t, file); len(found) != 3 {
		t.Fatalf("found %q; want the first three calls", found)
	}
}

// TestProductStaysSmall: what only the tests and the image need is in e2e's module.
func TestProductStaysSmall(t *testing.T) {
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, banned := range []string{"google/go-containerregistry", "matrixhub-ai/hfd", "golang.org/x/crypto/x509roots"} {
		if bytes.Contains(text, []byte(banned)) {
			t.Errorf("go.mod requires %s: it belongs in e2e/go.mod", banned)
		}
	}
}

// TestRepositoryHoldsNothingElse: the top level is what the design names.
func TestRepositoryHoldsNothingElse(t *testing.T) {
	top := []string{"cmd", "csi", "agent", "fetcher", "deploy", "e2e", "go.mod", "go.sum", "Makefile", "Dockerfile", "README.md", "LICENSE", "build"}
	entries, err := fs.ReadDir(os.DirFS("../.."), ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(top, e.Name()) && !strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s has no place at the top level: %v", e.Name(), top)
		}
	}
}
