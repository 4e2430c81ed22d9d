package node

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// component is a program that the process inside started and ends.
type component struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // set before done is closed
}

// start runs argv, with what it says in the run's logs/NAME.log.
func (c *Cluster) start(name string, argv ...string) error {
	out, err := logFile(c.dir, name)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	started, err := begin(name, cmd)
	if err != nil {
		return err
	}
	c.components = append(c.components, started)
	return nil
}

// begin starts cmd.
func begin(name string, cmd *exec.Cmd) (*component, error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &component{name: name, cmd: cmd, done: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (c *component) stop() {
	_ = c.cmd.Process.Kill() // it may have ended
	<-c.done
}

// users are the API server's: each program is who it is on a real cluster.
const users = `admin,admin,admin,"system:masters"
controllers,system:kube-controller-manager,system:kube-controller-manager
scheduler,system:kube-scheduler,system:kube-scheduler
node,system:node:` + NodeName + `,system:node:` + NodeName + `,"system:nodes"
`

// startControlPlane starts etcd, the API server, the controller manager and the
// scheduler, and returns when the API server is ready.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	etc := filepath.Join(c.dir, "etc")
	key := filepath.Join(etc, "service-accounts.key")
	if err := os.MkdirAll(etc, 0o700); err != nil {
		return err
	}
	if err := writeKey(key); err != nil {
		return err
	}
	tokens := filepath.Join(etc, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(users), 0o600); err != nil {
		return err
	}
	for _, user := range []string{"admin", "controllers", "scheduler", "node"} {
		if err := os.WriteFile(c.kubeconfig(user), fmt.Appendf(nil, kubeconfigTemplate, "https://"+HostIP+":443", c.ca(), user), 0o600); err != nil {
			return err
		}
	}
	if err := c.start("etcd", c.tools.kubernetes, "etcd", "--data-dir="+filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380"); err != nil {
		return err
	}
	if err := c.start("kube-apiserver", c.tools.kubernetes, "kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=0.0.0.0", "--secure-port=443", "--advertise-address="+HostIP, "--cert-dir="+filepath.Join(etc, "api"),
		"--service-cluster-ip-range="+services, "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--token-auth-file="+tokens, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged", "--kubelet-preferred-address-types=InternalIP"); err != nil {
		return err
	}
	if err := c.ready(ctx); err != nil {
		return err
	}
	if err := c.start("kube-controller-manager", c.tools.kubernetes, "kube-controller-manager", "--kubeconfig="+c.kubeconfig("controllers"),
		"--service-account-private-key-file="+key, "--root-ca-file="+c.ca(), "--use-service-account-credentials",
		"--leader-elect=false", "--secure-port=0", "--flex-volume-plugin-dir="+filepath.Join(c.dir, "flex-volumes")); err != nil {
		return err
	}
	return c.start("kube-scheduler", c.tools.kubernetes, "kube-scheduler", "--kubeconfig="+c.kubeconfig("scheduler"), "--leader-elect=false", "--secure-port=0")
}

// ca is the file that the API server makes for itself: its certificate and its
// authority's.
func (c *Cluster) ca() string { return filepath.Join(c.dir, "etc", "api", "apiserver.crt") }

func (c *Cluster) kubeconfig(user string) string {
	return filepath.Join(c.dir, "etc", user+".kubeconfig")
}

const kubeconfigTemplate = `apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: e2e, user: {token: %q}}]
contexts: [{name: e2e, context: {cluster: e2e, user: e2e}}]
current-context: e2e
`

// writeKey makes the key that signs the tokens of service accounts.
func writeKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// ready waits until the API server says that it is, or has ended.
func (c *Cluster) ready(ctx context.Context) error {
	// Whose certificate it is does not matter here: nothing else can listen there.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	return c.wait(ctx, "the API server is not ready", func() (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+HostIP+":443/readyz", nil)
		if err != nil {
			return "", err
		}
		req.Header.Set("Authorization", "Bearer admin")
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return err.Error(), nil
		}
		defer resp.Body.Close()
		said, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode == http.StatusOK {
			return "", err
		}
		return string(said), nil
	})
}

// wait asks until there is nothing missing, ctx ends, or a program that the process
// inside started has ended.
func (c *Cluster) wait(ctx context.Context, what string, missing func() (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		m, err := missing()
		if err != nil || m == "" {
			return err
		}
		for _, started := range c.components {
			select {
			case <-started.done:
				return fmt.Errorf("%s: %s has ended: %w; it said:\n%s", what, started.name, started.err, tail(filepath.Join(c.dir, "logs", started.name+".log")))
			default:
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %s", what, ctx.Err(), m)
		}
	}
}
