package kube

import (
	"net/netip"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
)

// at gives p addresses, as the kubelet reports them.
func at(p *corev1.Pod, addresses ...string) *corev1.Pod {
	p = p.DeepCopy()
	for _, a := range addresses {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	return p
}

func (w *world) wantAt(t *testing.T, address string, want Pod) {
	t.Helper()
	synctest.Wait()
	if got, ok := w.kube.PodAt(netip.MustParseAddr(address)); got != want || ok != (want != Pod{}) {
		t.Errorf("at %s: %v, %v; want %v", address, got, ok, want)
	}
}

func TestAPodIsFoundByEachOfItsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := at(pod("a", "uid-a", "1"), "10.0.0.1", "fd00::1"), at(pod("b", "uid-b", "2"), "10.0.0.2", "::ffff:10.0.0.3", "no address")
		w := newWorld(t, a, b)
		w.wantAt(t, "10.0.0.1", Pod{}) // not listed yet
		w.run(t)
		for address, want := range map[string]Pod{
			"10.0.0.1": named(a), "::ffff:10.0.0.1": named(a), "fd00::1": named(a), "fd00::1%eth0": named(a),
			"10.0.0.2": named(b), "10.0.0.3": named(b), "10.0.0.9": {}, "::": {}, "127.0.0.1": {},
		} {
			w.wantAt(t, address, want)
		}
		if _, ok := w.kube.PodAt(netip.Addr{}); ok {
			t.Error("a pod is found at no address")
		}
		if n := w.count("list", "pods") + w.count("get", "pods"); n > 1 {
			t.Errorf("%d requests; want the first list alone", n)
		}
	})
}

func TestAnAddressThatIsNotOnePodsAloneIsNobodys(t *testing.T) {
	const address = "10.0.0.1"
	host := at(pod("host", "uid-host", "1"), address)
	host.Spec.HostNetwork = true
	ended, failed := at(pod("ended", "uid-ended", "2"), address), at(pod("failed", "uid-failed", "3"), address)
	ended.Status.Phase, failed.Status.Phase = corev1.PodSucceeded, corev1.PodFailed
	elsewhere := at(pod("elsewhere", "uid-elsewhere", "4"), address)
	elsewhere.Spec.NodeName = "node-b"
	leaving := deleting(at(pod("leaving", "uid-leaving", "7"), address), "8")
	a, b := at(pod("a", "uid-a", "5"), address), at(pod("b", "uid-b", "6"), address)
	for name, tc := range map[string]struct {
		pods []*corev1.Pod
		want Pod
	}{
		"hostNetwork":               {[]*corev1.Pod{host}, Pod{}},
		"ended":                     {[]*corev1.Pod{ended, failed}, Pod{}},
		"being deleted":             {[]*corev1.Pod{leaving}, Pod{}},
		"another node's":            {[]*corev1.Pod{elsewhere}, Pod{}},
		"two live pods'":            {[]*corev1.Pod{a, b}, Pod{}},
		"one live pod's and others": {[]*corev1.Pod{a, ended, failed, leaving, host, elsewhere}, named(a)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tc.pods...).run(t)
				w.wantAt(t, address, tc.want)
			})
		})
	}
}

func TestAnAddressFollowsItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const address = "10.0.0.1"
		a := pod("a", "uid-a", "1")
		w := newWorld(t, a).run(t)
		w.wantAt(t, address, Pod{}) // it has none yet
		a = at(a, address)
		a.ResourceVersion = "2"
		w.update(t, a)
		w.wantAt(t, address, named(a))
		w.update(t, deleting(a, "3")) // its address may be free before it has ended
		w.wantAt(t, address, Pod{})
		ended := deleting(a, "4")
		ended.Status.Phase = corev1.PodSucceeded
		w.update(t, ended)
		w.wantAt(t, address, Pod{})
		b := at(pod("b", "uid-b", "5"), address)
		w.add(t, b)
		w.wantAt(t, address, named(b))
		w.remove(t, b)
		w.wantAt(t, address, Pod{})
	})
}
