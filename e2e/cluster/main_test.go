// Package cluster owns the scenarios of `make e2e`: Ballast as it is deployed, on a
// real node, asked for models by real pods. Each test is named for what must hold, and
// prints what it measured.
//
// With BALLAST_E2E_IMAGE and KUBECONFIG set they run on that cluster instead (see
// external), but for those that need the node itself: they are skipped, and say so.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/e2e/node"
	"github.com/ballast-csi/ballast/e2e/oci"
)

func TestMain(m *testing.M) {
	if elsewhere() {
		os.Exit(runOutside(m))
	}
	node.Main(node.Run{Tests: searched{m}, Prepare: prepare, KeepLogs: "../../build/e2e-logs"})
}

// interrupted ends when the run is asked to, on a cluster that is there: nothing is
// waited for any more, so all tests fail, and the cluster is left in order. A cluster of
// our own ends with its processes.
var interrupted = context.Background()

// runOutside runs the tests on the cluster that KUBECONFIG names, and leaves it as it
// was (see leave).
func runOutside(m *testing.M) int {
	var stop context.CancelFunc
	interrupted, stop = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(interrupted, stop) // a second signal ends the process
	w, err := shared()
	code := 1
	if err == nil {
		code = m.Run()
	}
	if w != nil {
		err = errors.Join(err, w.leave())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return code
}

// Images, as pods name them and as containerd does.
const (
	registry  = "docker.io/library/"
	oldImage  = "ballast:e2e-1" // what is deployed
	newImage  = "ballast:e2e-2" // what it is rolled to
	imageFile = ".tar"
)

// program is Ballast itself, in the work directory, for what people run by hand.
const program = "ballast"

// prepare builds what runs on the node into dir.
func prepare(ctx context.Context, dir string, w io.Writer) error {
	if _, err := node.Build(ctx, "../kubernetes", w); err != nil {
		return err
	}
	images := filepath.Join(dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return oci.WritePod(ctx, archive(dir, oci.PodReference), oci.PodReference, "..") })
	for _, image := range []string{oldImage, newImage} {
		g.Go(func() error { return oci.WriteBallast(ctx, archive(dir, image), registry+image, "../..", image) })
	}
	g.Go(func() error { return hub.Build(ctx, filepath.Join(dir, "hfd")) })
	g.Go(func() error {
		return oci.Program{Module: "../..", Package: "./cmd/ballast", Version: oldImage}.Compile(ctx, runtime.GOARCH, filepath.Join(dir, program))
	})
	g.Go(func() error { return installModelExpress(ctx, dir, w) })
	return g.Wait()
}

// archive is where the image called name is kept.
func archive(dir, name string) string {
	return filepath.Join(dir, "images", filepath.Base(name)+imageFile)
}
