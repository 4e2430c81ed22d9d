package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestWhatTheOperatorLendsReachesNobodyElse: the agent has a token of the node's, opens
// some repositories to one namespace, and serves the Hub's API to the node's pods.
func TestWhatTheOperatorLendsReachesNobodyElse(t *testing.T) {
	w := onNode(t)
	named, another := w.namespace(t), w.namespace(t)
	nodes, reader, other := w.token("node"), w.token("reader"), w.token("other")
	w.hub.Accounts(nodes, other)
	opened, closed, cached := w.named(t, "org/lent-opened"), w.named(t, "org/lent-closed"), w.named(t, "org/lent-cached")
	w.hub.Private(opened.repo, nodes)
	w.hub.Private(closed.repo, nodes)
	w.hub.Private(cached.repo, reader)
	w.secret(t, named, "reader", "HF_TOKEN", reader)
	w.secret(t, another, "other", "HF_TOKEN", other)
	w.secret(t, "ballast", "hub-token", "token", nodes)
	t.Cleanup(func() {
		if err := w.client.CoreV1().Secrets("ballast").Delete(context.Background(), "hub-token", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	w.withAgent(t, func(ds *appsv1.DaemonSet) {
		pod := &ds.Spec.Template.Spec
		pod.Containers[0].Args = append(pod.Containers[0].Args, "--hub-token-file=/run/hub/token", "--open="+opened.repo+"="+named, "--hub-address=:9809")
		pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "hub-token", MountPath: "/run/hub", ReadOnly: true})
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "hub-token", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "hub-token"}}})
	})
	asks := func(ns, name string, volume corev1.VolumeSource) *corev1.Pod {
		return w.create(t, w.pod(ns, name, &volume))
	}

	let := asks(named, "opened", inline(opened.repo))
	w.running(t, let, time.Minute)
	w.check(t, let, modelDir, opened, "")
	reads := asks(named, "reads", with("reader", inline(cached.repo)))
	w.running(t, reads, time.Minute)
	refused := []*corev1.Pod{
		asks(named, "closed", inline(closed.repo)),                        // the node's token could, and opens it to nobody
		asks(another, "opened-to-another", inline(opened.repo)),           // on the node by now
		asks(another, "with-a-token", with("other", inline(opened.repo))), // an account's that may not
	}
	missing := asks(named, "missing", inline("org/lent-nowhere"))
	asIf := incidental.ReplaceAllString(w.eventOf(t, missing, 20*time.Second, "private or does not exist", "HF_TOKEN"), "*")
	for _, p := range refused {
		said := w.eventOf(t, p, 20*time.Second, "private or does not exist", "HF_TOKEN")
		if p.Name != "with-a-token" && incidental.ReplaceAllString(said, "*") != asIf {
			t.Errorf("%s was told %q; of one that does not exist %q", p.Name, said, asIf)
		}
	}
	refused = append(refused, missing)
	w.nothingFor(t, refused...)

	stranger := asks(another, "asks", inline(w.named(t, "org/lent-public").repo))
	w.running(t, stranger, time.Minute)
	running, err := w.part(t.Context(), agent)
	if err != nil || running == nil {
		t.Fatalf("the agent's pod: %v", err)
	}
	api := "http://" + net.JoinHostPort(running.Status.PodIP, "9809")
	tenant, nobody, node := w.processIn(t, reads), w.processIn(t, stranger), w.machine.PID()
	for _, c := range []struct {
		what   string
		from   int // a process whose network it comes from
		m      model
		token  string
		status int
	}{
		{"its own token", tenant, cached, reader, http.StatusOK},
		{"no token", tenant, cached, "", http.StatusUnauthorized},
		{"another namespace with that token", nobody, cached, reader, http.StatusOK}, // a token is its bearer's
		{"another namespace", nobody, cached, "", http.StatusUnauthorized},
		{"another namespace with another token", nobody, cached, other, http.StatusNotFound},
		{"what is opened to it", tenant, opened, "", http.StatusOK},
		{"what is opened to others", nobody, opened, "", http.StatusUnauthorized},
		{"what the node's token could read", tenant, closed, "", http.StatusUnauthorized},
		{"the node, and pods in its network", node, cached, reader, http.StatusForbidden},
		{"beyond the node", os.Getpid(), cached, reader, http.StatusForbidden},
	} {
		status, body := getFrom(t, c.from, api+"/"+c.m.repo+"/resolve/"+c.m.commit+"/config.json", c.token)
		if status != c.status {
			t.Errorf("%s: %d: %s; want %d", c.what, status, body, c.status)
		}
		content := c.m.files["config.json"]
		if given := strings.Contains(string(body), string(content)); given != (c.status == http.StatusOK) || given && sha256.Sum256(body) != sha256.Sum256(content) {
			t.Errorf("%s: was given %q", c.what, body)
		}
	}
	pods := append(refused, let, reads, stranger)
	w.removeAll(t, pods, 30*time.Second)
	for _, p := range pods {
		w.noTraces(t, p, 10*time.Second)
	}
}

// processIn is a process of p's container.
func (w *world) processIn(t *testing.T, p *corev1.Pod) int {
	t.Helper()
	pids, err := w.machine.Processes("/pod", "hold")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if groups, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup")); err == nil && strings.Contains(string(groups), string(p.UID)) {
			return pid
		}
	}
	t.Fatalf("none of the processes %v is %s's", pids, p.Name)
	return 0
}

// getFrom reads url as a process does that shares the network of pid.
func getFrom(t *testing.T, pid int, url, token string) (status int, body []byte) {
	t.Helper()
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = inNetwork(pid, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body
}

// inNetwork has do run in the network namespace of pid. A socket stays in the one that it
// was made in.
func inNetwork(pid int, do func() error) error {
	runtime.LockOSThread() // the thread alone goes there
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer own.Close()
	to, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer to.Close()
	if err := unix.Setns(int(to.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = do()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return back // and the thread is nobody else's
	}
	runtime.UnlockOSThread()
	return err
}
