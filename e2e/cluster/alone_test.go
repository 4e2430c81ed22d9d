package cluster

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestPodsStartWithoutAnyAPIAccess: no --kube, no token, no right. The agent then opens
// no connection but to the Hub.
func TestPodsStartWithoutAnyAPIAccess(t *testing.T) {
	w := onNode(t)
	ns := w.namespace(t)
	w.withAgent(t, func(ds *appsv1.DaemonSet) {
		pod := &ds.Spec.Template.Spec
		pod.AutomountServiceAccountToken = new(bool)
		args := pod.Containers[0].Args
		if pod.Containers[0].Args = slices.DeleteFunc(args, func(a string) bool { return a == "--kube" }); len(pod.Containers[0].Args) == len(args) {
			t.Fatalf("the agent has no --kube: %q", args)
		}
	})
	w.withoutRights(t)
	pid := w.processOf(t, agent)
	if token := fmt.Sprintf("/proc/%d/root%s", pid, tokenDir); exists(token) {
		t.Errorf("the agent has a token: %s", token)
	}
	m := w.publish(t, hub.SmallModel)
	w.hub.Throttle(m.repo, m.bytes()) // a second
	hubAt := w.hubAddress(t)
	stop, done := make(chan struct{}), make(chan map[netip.AddrPort]int)
	go func() {
		seen := map[netip.AddrPort]int{}
		for {
			for _, to := range connectedTo(pid) {
				seen[to]++
			}
			select {
			case <-stop:
				done <- seen
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	volume := inline(m.repo)
	p := w.create(t, w.pod(ns, "alone", &volume))
	w.running(t, p, time.Minute)
	w.check(t, p, modelDir, m, "")
	w.remove(t, p, 30*time.Second)
	w.noTraces(t, p, 10*time.Second)
	close(stop)
	seen := <-done
	if seen[hubAt] == 0 {
		t.Errorf("no connection to the Hub was seen: %v", seen)
	}
	delete(seen, hubAt)
	if len(seen) > 0 {
		t.Errorf("the agent had connections to %v; want none but to the Hub, %s", seen, hubAt)
	}
}

// withAgent has the agent run as edit says until the test ends.
func (w *world) withAgent(t *testing.T, edit func(*appsv1.DaemonSet)) {
	t.Helper()
	var was appsv1.DaemonSet
	w.rollAgent(t.Context(), t, func(ds *appsv1.DaemonSet) {
		ds.DeepCopyInto(&was)
		edit(ds)
	})
	t.Cleanup(func() {
		w.rollAgent(context.Background(), t, func(ds *appsv1.DaemonSet) { ds.Spec.Template = was.Spec.Template })
	})
}

// rollAgent changes what the agent's pod is, and returns when there is the new one.
func (w *world) rollAgent(ctx context.Context, t *testing.T, edit func(*appsv1.DaemonSet)) {
	t.Helper()
	sets := w.client.AppsV1().DaemonSets("ballast")
	ds, err := sets.Get(ctx, "ballast-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	edit(ds)
	if _, err := sets.Update(ctx, ds, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.run(ctx, "-n", "ballast", "rollout", "status", "--timeout=2m", "daemonset/ballast-agent"); err != nil {
		t.Fatal(err)
	}
}

// withoutRights takes all rights from the agent's account until the test ends.
func (w *world) withoutRights(t *testing.T) {
	t.Helper()
	bindings := w.client.RbacV1().ClusterRoleBindings()
	was, err := bindings.Get(t.Context(), "ballast-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := bindings.Delete(t.Context(), was.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		was.ResourceVersion, was.UID = "", ""
		if _, err := bindings.Create(context.Background(), was, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// hubAddress is the Hub's, as in the kernel's lists.
func (w *world) hubAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	u, err := url.Parse(w.hub.URL())
	if err != nil {
		t.Fatal(err)
	}
	at, err := netip.ParseAddrPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// connectedTo are the ends of connections that the process opened, over IPv4 and IPv6.
func connectedTo(pid int) (ends []netip.AddrPort) {
	listening := map[uint16]bool{}
	var all [][2]netip.AddrPort
	for _, list := range []string{"tcp", "tcp6"} {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, list))
		for line := range strings.Lines(string(content)) {
			f := strings.Fields(line)
			local, err := parseEnd(f[1])
			remote, err2 := parseEnd(f[2])
			switch {
			case err != nil || err2 != nil: // the heading
			case remote.Port() == 0:
				listening[local.Port()] = true
			default:
				all = append(all, [2]netip.AddrPort{local, remote})
			}
		}
	}
	for _, c := range all {
		if !listening[c[0].Port()] {
			ends = append(ends, c[1])
		}
	}
	return ends
}

// parseEnd reads an address of /proc/net/tcp: words of 32 bits in this machine's order,
// as hexadecimal numbers, then the port.
func parseEnd(s string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(words)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word) // little-endian, as all machines are that the scenarios run on
	}
	addr, _ := netip.AddrFromSlice(raw)
	var number uint16
	_, err = fmt.Sscanf(port, "%X", &number)
	return netip.AddrPortFrom(addr.Unmap(), number), err
}
