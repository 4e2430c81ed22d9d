package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/csi/mount"
	"github.com/ballast-csi/ballast/csi/mount/mounttest"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// node is what a node has: ballast agent, a plain user, and ballast csi, root, each a
// process of its own, kubelet's directories, and a Hub far away.
type node struct {
	t          *testing.T
	dir, exe   string
	uid        int // of the agent
	web        string
	hub        *hubtest.Hub
	agent, csi *process
	kubelet    *kubelet
}

type process struct {
	*exec.Cmd
	log  *lockedBuffer
	done chan struct{} // closed when it has ended
	err  error         // Wait's; set before done is closed
}

// lockedBuffer keeps what a process writes.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newNode(t *testing.T) *node {
	n := &node{t: t, dir: shortDir(t), uid: os.Getuid(), hub: hubtest.New(t)}
	if !mounttest.UserNamespace() {
		n.uid = defaultAgentUID
	}
	must(t, os.Chmod(n.dir, 0o755))
	for _, d := range []string{"csi", "pods"} {
		must(t, os.Mkdir(filepath.Join(n.dir, d), 0o755))
	}
	preparing{t, n.path("cache"), n.path("run"), n.uid}.mustPrepare()
	// A copy: the one that go test built lies in a directory that only root reads.
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	n.exe = filepath.Join(n.dir, "ballast")
	must(t, os.WriteFile(n.exe, self, 0o755))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	n.web = l.Addr().String()
	must(t, l.Close())
	n.startAgent()
	n.startCSI()
	n.kubelet, err = newKubelet(n.path("csi/csi.sock"), n.path("pods"), fetcher.Secret{})
	must(t, err)
	t.Cleanup(func() {
		n.kubelet.conn.Close()
		for _, p := range []*process{n.csi, n.agent} {
			n.kill(p, syscall.SIGTERM)
			if t.Failed() {
				t.Logf("%s wrote:\n%s", p.Args[1], p.log)
			}
		}
		if err := store.CheckStore(n.path("cache")); err != nil {
			t.Errorf("the cache after the test: %v", err)
		}
	})
	return n
}

func (n *node) path(rel string) string { return filepath.Join(n.dir, rel) }

func (n *node) start(uid int, args ...string) *process {
	n.t.Helper()
	p := &process{Cmd: exec.Command(n.exe, args...), log: &lockedBuffer{}, done: make(chan struct{})}
	p.Stdout, p.Stderr = p.log, p.log
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != os.Getuid() {
		p.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	must(n.t, p.Start())
	go func() {
		p.err = p.Wait()
		close(p.done)
	}()
	return p
}

func (n *node) startAgent() {
	n.t.Helper()
	n.agent = n.start(n.uid, "agent", "--cache-dir", n.path("cache"), "--socket", n.path("run/agent.sock"),
		"--csi-http-socket", n.path("csi/http.sock"), "--http-address", n.web, "--hub-endpoint", n.hub.URL(),
		"--csi-uid", fmt.Sprint(os.Getuid()), "--reserve-bytes=-1") // as full as this machine's disk may be
	n.eventually(n.agent, func() error { _, err := n.get("/readyz"); return err })
}

func (n *node) startCSI() {
	n.t.Helper()
	n.csi = n.start(os.Getuid(), "csi", "--cache-dir", n.path("cache"), "--agent-socket", n.path("run/agent.sock"),
		"--agent-uid", fmt.Sprint(n.uid), "--csi-socket", n.path("csi/csi.sock"), "--http-socket", n.path("csi/http.sock"),
		"--node-id", "test")
	n.eventually(n.csi, func() error { return n.probe() })
}

// eventually waits until p does what is asked of it, or ends.
func (n *node) eventually(p *process, ask func() error) {
	n.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-p.done:
			n.t.Fatalf("%s has ended: %v\n%s", p.Args[1], p.err, p.log)
		case <-limit:
			n.t.Fatalf("%s: %v\n%s", p.Args[1], err, p.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// probe runs "ballast probe", as an exec probe does.
func (n *node) probe() error {
	out, err := exec.Command(n.exe, "probe", "--socket", n.path("csi/http.sock")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (n *node) get(path string) (string, error) {
	resp, err := http.Get("http://" + n.web + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// kill ends a process and waits for it.
func (n *node) kill(p *process, s syscall.Signal) {
	n.t.Helper()
	select {
	case <-p.done:
		return
	default:
	}
	must(n.t, p.Process.Signal(s))
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.Process.Kill()
		n.t.Fatalf("%s did not end after %s:\n%s", p.Args[1], s, p.log)
	}
	if s == syscall.SIGTERM && p.err != nil {
		n.t.Errorf("%s ended with %v after SIGTERM:\n%s", p.Args[1], p.err, p.log)
	}
}

// publish is one call with kubelet's 2 minutes.
func (n *node) publish(p pod, repo string) error {
	must(n.t, os.MkdirAll(p.dir, 0o750))
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	_, err := n.kubelet.node.NodePublishVolume(ctx, n.kubelet.request(p, map[string]string{"repo": repo}))
	return err
}

// publishAside is publish in the background.
func (n *node) publishAside(p pod, repo string) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- n.publish(p, repo) }()
	return ended
}

func (n *node) mounted(p pod) bool {
	n.t.Helper()
	m, err := mount.New(mount.Config{CacheDir: n.path("cache")})
	must(n.t, err)
	_, is, err := m.Lookup(p.target)
	must(n.t, err)
	return is
}

// pins counts the files of the cache's pins.
func (n *node) pins() int { return len(left(n.t, n.path("cache/pins"))) }

func TestTwoProcessesMountAndOutliveEachOther(t *testing.T) {
	n := newNode(t)
	weights := bytes.Repeat([]byte("weights "), 4<<20/8)
	n.hub.AddRepo("org/name", map[string][]byte{"config.json": []byte("{}"), "model.safetensors": weights})
	first, second := n.kubelet.newPod(1, "first"), n.kubelet.newPod(2, "second")

	must(t, n.publish(first, "org/name"))
	open, err := os.Open(filepath.Join(first.target, "model.safetensors"))
	must(t, err)
	defer open.Close()

	t.Log("the agent dies under a running pod, and another pod starts")
	n.kill(n.agent, syscall.SIGKILL)
	ended := n.publishAside(second, "org/name")
	n.eventually(n.csi, func() error { // it asks the agent in vain
		if out, err := exec.Command(n.exe, "probe", "--socket", n.path("csi/http.sock"), "--path", "/metrics").Output(); err != nil {
			return err
		} else if !regexp.MustCompile(`ballast_csi_agent_errors_total [1-9]`).Match(out) {
			return errors.New("the driver has not missed the agent yet")
		}
		return nil
	})
	n.startAgent()
	if err := <-ended; err != nil {
		t.Errorf("the call that was held while the agent was away: %v", err)
	}

	t.Log("the driver dies under running pods; kubelet publishes again, and unpublishes one")
	n.kill(n.csi, syscall.SIGKILL)
	n.hub.Down(true)
	if data, err := io.ReadAll(open); err != nil || !bytes.Equal(data, weights) {
		t.Errorf("the running pod read %d bytes, %v; want all %d", len(data), err, len(weights))
	}
	n.startCSI()
	must(t, n.publish(first, "org/name"))
	must(t, open.Close())
	must(t, n.kubelet.unpublish(t.Context(), first))
	if n.mounted(first) || !n.mounted(second) || n.pins() != 1 {
		t.Errorf("mounted: first %v, second %v; %d pins; want only the second", n.mounted(first), n.mounted(second), n.pins())
	}

	t.Log("a pod is deleted while the agent is down; the pin goes when it is back")
	n.kill(n.agent, syscall.SIGKILL)
	must(t, n.kubelet.unpublish(t.Context(), second))
	if n.mounted(second) || n.pins() != 1 {
		t.Errorf("second mounted: %v; %d pins; want its mount gone and its pin left over", n.mounted(second), n.pins())
	}
	n.startAgent()
	n.kill(n.csi, syscall.SIGTERM)
	n.startCSI()
	n.eventually(n.csi, func() error {
		if n.pins() != 0 {
			return errors.New("the left-over pin is still there")
		}
		return nil
	})
}

func TestSIGTERMEndsEveryWaitAtOnce(t *testing.T) {
	for _, which := range []string{"csi", "agent and csi"} {
		t.Run(which, func(t *testing.T) {
			n := newNode(t)
			n.hub.AddRepo("org/name", map[string][]byte{"config.json": []byte("{}")})
			defer n.hub.Hold("org/name", "config.json")()
			ended := n.publishAside(n.kubelet.newPod(1, "waits"), "org/name")
			n.eventually(n.agent, func() error {
				metrics, err := n.get("/metrics")
				if err == nil && !strings.Contains(metrics, "ballast_waiting_volumes 1") {
					err = errors.New("the volume does not wait yet")
				}
				return err
			})
			if which != "csi" {
				n.kill(n.agent, syscall.SIGTERM)
			}
			n.kill(n.csi, syscall.SIGTERM)
			// An answer, not a connection that broke when patience ended.
			if err := <-ended; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "driver on this node is stopping") {
				t.Errorf("the held call ended with %v; want Unavailable, so that kubelet asks again, and why", err)
			}
		})
	}
}

func TestMetricsOfBothProcessesAreShownByTheAgent(t *testing.T) {
	n := newNode(t)
	n.hub.AddRepo("org/name", map[string][]byte{"config.json": []byte("{}")})
	must(t, n.publish(n.kubelet.newPod(1, "one"), "org/name"))
	metrics, err := n.get("/metrics")
	must(t, err)
	for _, want := range []string{
		"ballast_csi_up 1", `ballast_csi_operations_total{code="OK",method="NodePublishVolume"} 1`,
		`ballast_acquires_total{result="fetched"} 1`, `ballast_fetched_bytes_total{source="hub"} 2`, "ballast_store_pins 1",
		`go_goroutines{process="agent"}`, `go_goroutines{process="csi"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	must(t, n.kubelet.unpublish(t.Context(), n.kubelet.newPod(1, "one")))
	n.kill(n.csi, syscall.SIGTERM)
	metrics, err = n.get("/metrics")
	must(t, err)
	if !strings.Contains(metrics, "ballast_csi_up 0") || !strings.Contains(metrics, "ballast_store_pins 0") {
		t.Error("/metrics without the driver does not say that it is away, or the agent's own are missing")
	}
	if err := n.probe(); err == nil {
		t.Error("the probe of a driver that is gone succeeds")
	}
}

func TestTheDriverHasNoNetworkSocket(t *testing.T) {
	n := newNode(t)
	if got := inetSockets(t, n.csi.Process.Pid); len(got) != 0 {
		t.Errorf("ballast csi has %d network sockets: %v", len(got), got)
	}
	if got := inetSockets(t, n.agent.Process.Pid); len(got) == 0 {
		t.Error("ballast agent seems to have none: this test sees nothing")
	}
}

// inetSockets lists a process's sockets that are in the kernel's tables of networks.
func inetSockets(t *testing.T, pid int) (found []string) {
	t.Helper()
	inodes := map[string]bool{}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	for _, fd := range fds {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		lines, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		must(t, err)
		for _, line := range strings.Split(string(lines), "\n") {
			if f := strings.Fields(line); len(f) > 9 && inodes[f[9]] {
				found = append(found, table+" "+f[1])
			}
		}
	}
	return found
}

func TestBadFlagsSayWhatToDo(t *testing.T) {
	dir := shortDir(t)
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"agent", "--nonsense"}, exitUsage, "agent --help"},
		{[]string{"agent", "--log-level", "loud"}, exitUsage, "--log-level"},
		{[]string{"agent", "--cache-dir", dir, "--hub-endpoint", "ftp://x"}, exitUsage, "--hub-endpoint"},
		{[]string{"agent", "--cache-dir", dir, "--kube"}, exitUsage, "--kube"},
		{[]string{"agent", "--cache-dir", dir, "--reserve-percent", "101"}, exitUsage, "--reserve-percent"},
		{[]string{"agent", "--cache-dir", dir, "--public-for", "0"}, exitUsage, "--public-for"},
		{[]string{"agent", "--cache-dir", dir, "--proof-grace", "-1s"}, exitUsage, "--proof-grace"},
		{[]string{"agent", "--cache-dir", dir, "--socket", filepath.Join(dir, "none/x.sock")}, exitFailed, "--socket"},
		{[]string{"csi", "--cache-dir", dir}, exitUsage, "name"},
		{[]string{"csi", "--cache-dir", "relative", "--node-id", "n"}, exitUsage, "absolute"},
		{[]string{"probe", "--socket", filepath.Join(dir, "none.sock")}, exitFailed, "does not answer"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			out, err := demoProcess(t, dir, tc.args...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != tc.code || !strings.Contains(string(out), tc.says) {
				t.Errorf("ended with %v and said %q; want code %d and %q", err, out, tc.code, tc.says)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
