package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/e2e/node"
	"github.com/ballast-csi/ballast/e2e/oci"
)

// world is what all scenarios share: one cluster with Ballast on it, and one Hub.
type world struct {
	dir        string // for what the tests write
	client     kubernetes.Interface
	config     *rest.Config
	kubeconfig string
	kubectl    []string // the command
	image      string   // Ballast's
	podImage   string
	hub        *hub.Hub
	lives      *lives
	search     *search       // nil on a cluster that was there before
	machine    *node.Machine // nil on a cluster that was there before
	deployed   bool          // Ballast is on the cluster, or a part of it
}

var shared = sync.OnceValues(start)

// running is the shared one once it runs; nil: nobody has asked for it, or it failed.
var running *world

// theWorld is the shared one, started by the first who asks.
func theWorld(t *testing.T) *world {
	t.Helper()
	w, err := shared()
	if err = errors.Join(err, interrupted.Err()); err != nil {
		t.Fatal(err)
	}
	return w
}

// onNode is the same for scenarios that do things to the node.
func onNode(t *testing.T) *world {
	t.Helper()
	w := theWorld(t)
	if w.machine == nil {
		t.Skip("needs the node itself, which is out of reach on the cluster that KUBECONFIG names")
	}
	return w
}

func start() (*world, error) {
	ctx, cancel := context.WithTimeout(interrupted, 5*time.Minute)
	defer cancel()
	var w *world
	var err error
	if elsewhere() {
		w, err = external(ctx)
	} else {
		w, err = newNode(ctx)
	}
	if err != nil {
		return w, err
	}
	if w.config, err = clientcmd.BuildConfigFromFlags("", w.kubeconfig); err != nil {
		return w, err
	}
	w.config.QPS, w.config.Burst = 200, 400
	if w.client, err = kubernetes.NewForConfig(w.config); err != nil {
		return w, err
	}
	if w.lives, err = watchLives(ctx, w.client); err != nil {
		return w, err
	}
	if w.machine != nil {
		w.search = newSearch(canary, filepath.Join(w.dir, "disk", "said"))
		if err := errors.Join(os.Mkdir(w.search.logs, 0o755), w.search.watch(w)); err != nil {
			return w, err
		}
	}
	if err := w.deploy(ctx); err != nil {
		return w, err
	}
	running = w
	return w, nil
}

// newNode starts a cluster of our own and a Hub beside it.
func newNode(ctx context.Context) (*world, error) {
	dir := node.Dir()
	tools, err := node.Build(ctx, "../kubernetes", os.Stdout)
	if err != nil {
		return nil, err
	}
	cluster, err := node.Start(ctx, node.Config{Dir: dir, Tools: tools, Sandbox: oci.PodReference,
		Images: []string{archive(dir, oci.PodReference), archive(dir, oldImage), archive(dir, newImage)}})
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, kubeconfig: cluster.Kubeconfig(), kubectl: tools.Kubectl(), image: registry + oldImage, podImage: oci.PodReference,
		machine: cluster.Machine()}
	w.hub, err = startHub(dir, node.HostIP+":0")
	return w, err
}

// elsewhere reports whether the scenarios run on a cluster that is there already.
func elsewhere() bool { return os.Getenv("BALLAST_E2E_IMAGE") != "" }

// external is a cluster that is there already. Its nodes must have the images, or be
// able to pull them; its pods must reach this machine at the address of
// BALLAST_E2E_HUB, where the scenarios serve their Hub.
func external(ctx context.Context) (*world, error) {
	w := &world{kubeconfig: os.Getenv("KUBECONFIG"), kubectl: []string{"kubectl"}, image: os.Getenv("BALLAST_E2E_IMAGE"), podImage: os.Getenv("BALLAST_E2E_POD_IMAGE")}
	if w.podImage == "" {
		w.podImage = oci.PodReference
	}
	address := os.Getenv("BALLAST_E2E_HUB")
	if !strings.Contains(w.image, ":") || w.kubeconfig == "" || address == "" {
		return nil, errors.New("on a cluster of your own BALLAST_E2E_IMAGE must name the image to run, with a tag (make image), " +
			"KUBECONFIG the cluster, and BALLAST_E2E_HUB be IP:PORT of this machine as the cluster's pods reach it; " +
			"its nodes need the pods' image too: make e2e-pod-image")
	}
	var err error
	if w.dir, err = os.MkdirTemp("", "ballast-scenarios-"); err != nil {
		return nil, err
	}
	if err := w.absent(ctx, "csidriver", driver); err != nil {
		return w, err
	}
	// What an earlier run left in the nodes' caches is not this run's.
	seeds.Store(uint64(time.Now().UnixNano()))
	if err := errors.Join(os.Mkdir(filepath.Join(w.dir, "logs"), 0o755), hub.Build(ctx, filepath.Join(w.dir, "hfd"))); err != nil {
		return w, err
	}
	w.hub, err = startHub(w.dir, address)
	return w, err
}

// absent returns an error unless the cluster certainly has none of what args name.
func (w *world) absent(ctx context.Context, args ...string) error {
	there, err := w.kubectlOutput(ctx, append([]string{"get", "--ignore-not-found", "-o", "name"}, args...)...)
	if err != nil {
		return fmt.Errorf("whether there is a Ballast on the cluster of KUBECONFIG cannot be told: %w", err)
	}
	if there != "" {
		return fmt.Errorf("on the cluster of KUBECONFIG there is already:\n%sthe scenarios would replace that Ballast; remove it first", there)
	}
	return nil
}

// leave takes Ballast off a cluster that was there before, once the scenarios' pods,
// which need it to end, are gone; what this run did not make it does not touch. What
// stays are the directories on the nodes, the cache /var/lib/ballast among them: only a
// pod could remove them.
func (w *world) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	if w.deployed {
		err = errors.Join(w.run(ctx, "wait", "--for=delete", "namespace", "-l", managedBy+"="+scenarios, "--timeout=2m"),
			w.run(ctx, "delete", "--ignore-not-found", "-k", w.overlay()))
	}
	if w.hub != nil {
		err = errors.Join(err, w.hub.Close())
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

func (w *world) overlay() string { return filepath.Join(w.dir, "overlay") }

// startHub starts the Hub from the program in dir.
func startHub(dir, listen string) (*hub.Hub, error) {
	said, err := os.Create(filepath.Join(dir, "logs", "hfd.log"))
	if err != nil {
		return nil, err
	}
	return hub.Start(context.Background(), hub.Config{HFD: filepath.Join(dir, "hfd"), Dir: filepath.Join(dir, "hub"), Listen: listen, Output: said})
}

// overlay is what a person writes to deploy: the manifests, their image, their Hub.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images: [{name: registry.example.com/ballast, newName: %s, newTag: %s}]
patches:
- target: {kind: DaemonSet, name: ballast-agent}
  patch: |-
    - op: test
      path: /spec/template/spec/containers/0/env/1/name
      value: HF_ENDPOINT
    - op: replace
      path: /spec/template/spec/containers/0/env/1/value
      value: %s
    - op: add
      path: /spec/template/spec/containers/0/args/-
      value: --tokens-over-http # this Hub has no certificate
`

// deploy applies the manifests as the README says, and returns when both DaemonSets
// are ready.
func (w *world) deploy(ctx context.Context) error {
	dir := w.overlay()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	manifests, err := filepath.Abs("../../deploy/manifests")
	if err != nil {
		return err
	}
	relative, err := filepath.Rel(dir, manifests)
	if err != nil {
		return err
	}
	name, tag := splitImage(w.image)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, overlay, relative, name, tag, w.hub.URL()), 0o644); err != nil {
		return err
	}
	if w.machine == nil {
		if err := w.absent(ctx, "-k", dir); err != nil {
			return err
		}
	}
	w.deployed = true
	if err := w.run(ctx, "apply", "-k", dir); err != nil {
		return err
	}
	for _, ds := range []string{"ballast-agent", "ballast-csi"} {
		if err := w.run(ctx, "-n", "ballast", "rollout", "status", "--timeout=2m", "daemonset/"+ds); err != nil {
			said, why := w.kubectlOutput(ctx, "-n", "ballast", "describe", "pods")
			return errors.Join(err, errors.New(said), why)
		}
	}
	return nil
}

// splitImage takes a reference apart at its tag.
func splitImage(reference string) (name, tag string) {
	i := strings.LastIndexByte(reference, ':')
	return reference[:i], reference[i+1:]
}

// run runs kubectl.
func (w *world) run(ctx context.Context, args ...string) error {
	_, err := w.kubectlOutput(ctx, args...)
	return err
}

func (w *world) kubectlOutput(ctx context.Context, args ...string) (string, error) {
	words := append(append([]string{}, w.kubectl...), args...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.kubeconfig, "KUBECACHEDIR="+filepath.Join(w.dir, "kubectl"))
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %q: %w\n%s%s", args, err, out.String(), said.String())
	}
	return out.String(), nil
}
