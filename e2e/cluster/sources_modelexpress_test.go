package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/e2e/modelexpress"
	"github.com/ballast-csi/ballast/e2e/node"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

// installModelExpress puts the real servers into dir, where they can be built.
func installModelExpress(ctx context.Context, dir string, w io.Writer) error {
	for _, release := range []string{modelexpress.Newest, modelexpress.WithoutRevisions} {
		program, err := modelexpress.Install(ctx, w, release)
		if err != nil {
			fmt.Fprintf(w, "Model Express %s is a stand-in of ours: %v\n", release, err)
			continue
		}
		if err := os.Symlink(program, modelExpressIn(dir, release)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// modelExpressIn is where the work directory has the program of a release.
func modelExpressIn(dir, release string) string { return filepath.Join(dir, "modelexpress-"+release) }

// modelExpress is a Model Express server beside the node, at an address that stays while
// it is stopped.
type modelExpress struct {
	what    string
	dir     string // its cache
	address string
	run     func(ctx context.Context) (stop func(), err error)
	stop    func() // nil while it is stopped
}

// modelExpress starts a server that is offline and has nothing yet, until the test ends:
// the real one, or where that could not be built a stand-in.
func (w *world) modelExpress(t *testing.T, release string) *modelExpress {
	t.Helper()
	s := &modelExpress{what: "modelexpress-server " + release, dir: t.TempDir(), address: freeAddress(t)}
	s.run = func(ctx context.Context) (func(), error) {
		server, err := modelexpress.Start(ctx, modelexpress.Config{Program: modelExpressIn(w.dir, release), Address: s.address, Dir: s.dir})
		if err != nil {
			return nil, err
		}
		return server.Stop, nil
	}
	if !exists(modelExpressIn(w.dir, release)) {
		s.what = "a stand-in for modelexpress-server " + release
		s.run = func(context.Context) (func(), error) {
			server, err := modelexpresstest.Start(modelexpresstest.Config{Release: release, Address: s.address, Dir: s.dir, Offline: true})
			if err != nil {
				return nil, err
			}
			return server.Close, nil
		}
	}
	s.start(t)
	t.Cleanup(s.end)
	return s
}

func (s *modelExpress) start(t *testing.T) {
	t.Helper()
	var err error
	if s.stop, err = s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *modelExpress) end() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

func (s *modelExpress) String() string { return s.what }

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
