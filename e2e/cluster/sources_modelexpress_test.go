package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/e2e/node"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

// Releases of Model Express.
const (
	newest           = "0.7.0"
	withoutRevisions = "0.5.1" // heeds no revision: it gives the newest that it has
)

// modelExpress is a Model Express server beside the node, at an address that stays while
// it is stopped.
type modelExpress struct {
	release string
	dir     string // its cache
	address string
	server  *modelexpresstest.Server // nil while it is stopped
}

// modelExpress starts a server that is offline and has nothing yet, until the test ends.
func (w *world) modelExpress(t *testing.T, release string) *modelExpress {
	t.Helper()
	s := &modelExpress{release: release, dir: t.TempDir(), address: freeAddress(t)}
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *modelExpress) start(t *testing.T) {
	t.Helper()
	var err error
	if s.server, err = modelexpresstest.Start(modelexpresstest.Config{Release: s.release, Address: s.address, Dir: s.dir, Offline: true}); err != nil {
		t.Fatal(err)
	}
}

func (s *modelExpress) stop(t *testing.T) {
	t.Helper()
	if s.server != nil {
		s.server.Close()
		s.server = nil
	}
}

// streamed reports whether the server was asked for a file.
func (s *modelExpress) streamed() bool { return len(s.server.Calls("StreamModelFiles")) > 0 }

func (s *modelExpress) String() string { return "Model Express's stand-in of " + s.release }

// keep has the server's cache hold m as the server downloads it: what it leaves out is
// not there, and main is m's commit.
func (s *modelExpress) keep(t *testing.T, m model) {
	t.Helper()
	folder := filepath.Join(s.dir, "models--"+strings.ReplaceAll(m.repo, "/", "--"))
	files := map[string][]byte{filepath.Join("refs", "main"): []byte(m.commit)}
	for name, content := range m.only(isServed).files {
		files[filepath.Join("snapshots", m.commit, name)] = content
	}
	for name, content := range files {
		at := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// entry is this server among `sources`.
func (s *modelExpress) entry(name string) string {
	return fmt.Sprintf("- {name: %s, modelExpress: {url: %q}}", name, s.address)
}

// freeAddress is one that nobody listens at now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", node.HostIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
