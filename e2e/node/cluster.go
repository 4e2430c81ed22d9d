package node

import (
	"context"
	"errors"
	"os"
)

// NodeName is the machine's, in Kubernetes.
const NodeName = "node-1"

// Config says what a cluster is made of.
type Config struct {
	Dir     string // the run's work directory (Dir)
	Tools   Tools
	Sandbox string   // reference of the image that holds a pod's namespaces open
	Images  []string // tars to import, the sandbox's among them
}

// Cluster is a control plane and one node machine. It is used by one goroutine.
type Cluster struct {
	dir        string
	tools      Tools
	components []*component
	machine    *Machine
}

// Start starts the control plane, switches a machine on, and returns when both run;
// the node becomes Ready a moment later. What it started ends with Stop, or with the
// process.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	c := &Cluster{dir: cfg.Dir, tools: cfg.Tools}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := c.startControlPlane(ctx); err != nil {
		return nil, err
	}
	if c.machine, err = c.newMachine(cfg.Sandbox); err != nil {
		return nil, err
	}
	if err := c.machine.PowerOn(ctx); err != nil {
		return nil, err
	}
	for _, image := range cfg.Images {
		if err := c.machine.Import(ctx, image); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Stop ends everything that was started.
func (c *Cluster) Stop() error {
	var err error
	if c.machine != nil {
		err = c.machine.PowerCut()
	}
	for i := len(c.components) - 1; i >= 0; i-- {
		c.components[i].stop()
	}
	c.components = nil
	return err
}

// Kubeconfig is the path of the administrator's.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig("admin") }

// Machine is the node.
func (c *Cluster) Machine() *Machine { return c.machine }

// tail is the end of a log, for a person.
func tail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-4000):])
}
