package modelexpress

import (
	"os"
	"testing"

	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

// endpoint is a server that a test is run against.
type endpoint struct {
	name string
	dir  string // its cache
	old  bool   // it heeds no revision
	run  func(t *testing.T, dir string) (url string)
}

// start runs it until the test ends.
func (e endpoint) start(t *testing.T) (url string) { return e.run(t, e.dir) }

// theReal is the server that is installed.
func theReal(version string) endpoint {
	return endpoint{name: "real " + version, old: version != Newest, run: func(t *testing.T, dir string) string {
		return start(t, Config{Program: program(t, version), Dir: dir}).Address
	}}
}

// standIn is the one that the fetcher's own tests use.
func standIn(release string) endpoint {
	return endpoint{name: "stand-in " + release, old: release != Newest, run: func(t *testing.T, dir string) string {
		s := must(modelexpresstest.Start(modelexpresstest.Config{Release: release, Dir: dir, Offline: true}))(t)
		t.Cleanup(s.Close)
		return s.Address
	}}
}

// servers runs f against each of them; or, with MODEL_EXPRESS_TEST_URL, against the server
// there, whose cache is MODEL_EXPRESS_TEST_DIR on this machine.
func servers(t *testing.T, f func(t *testing.T, e endpoint)) {
	t.Helper()
	list := []endpoint{theReal(Newest), theReal(WithoutRevisions), standIn(Newest), standIn(WithoutRevisions)}
	url, dir := os.Getenv("MODEL_EXPRESS_TEST_URL"), os.Getenv("MODEL_EXPRESS_TEST_DIR")
	if url != "" {
		if dir == "" {
			t.Fatal("MODEL_EXPRESS_TEST_DIR must name the cache directory of the server at MODEL_EXPRESS_TEST_URL")
		}
		list = []endpoint{{name: "given", dir: dir, run: func(*testing.T, string) string { return url }}}
	}
	for _, e := range list {
		t.Run(e.name, func(t *testing.T) {
			if e.dir == "" {
				e.dir = t.TempDir()
			}
			f(t, e)
		})
	}
}
