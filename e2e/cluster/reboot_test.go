package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestKubeletRestartRepublishesFromMountinfoAlone: the Hub is stopped and the agent
// away when a new kubelet publishes the volumes of all pods that run once more.
func TestKubeletRestartRepublishesFromMountinfoAlone(t *testing.T) {
	w := onNode(t)
	w.healthy(t)
	still := w.mountsStay(t)
	m := w.publish(t, hub.SmallModel)
	volume := inline(m.repo)
	ns := w.namespace(t)
	pods := []*corev1.Pod{
		w.create(t, w.pod(ns, "reader-1", &volume, rereads)),
		w.create(t, w.pod(ns, "reader-2", &volume, rereads)),
		w.create(t, w.pod(ns, "user-namespace", &volume, rereads, func(p *corev1.Pod) { p.Spec.HostUsers = new(bool) })),
	}
	for _, p := range pods {
		w.running(t, p, time.Minute)
	}
	back := w.withoutAgent(t)
	w.stopHub(t)
	before := w.csiCounts(t)

	killed := time.Now()
	if err := w.machine.KillKubelet(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.counted(t, before, registrations, 1)
	registered := time.Now()
	w.counted(t, before, publishedMounted, len(pods))
	published := time.Now()
	after := w.csiCounts(t)
	onlyRose(t, before, after, publishes, publishedMounted, len(pods))
	took := (after[publishSecondsMounted] - before[publishSecondsMounted]) / float64(len(pods))
	if took >= 1 {
		t.Errorf("csi took %.1f s for each volume that was mounted already", took)
	}
	if late := published.Sub(registered); late > 5*time.Second {
		t.Errorf("the volumes were published again %s after the driver was registered", late)
	}
	for _, p := range pods {
		w.readsOn(t, p)
		w.check(t, p, modelDir, m, "")
	}
	t.Logf("kubelet killed: a new one had registered the driver after %s, and %s later the volumes of %d running pods were published again, %.1f ms each by csi's clock; agent and Hub away, all read on",
		round(registered.Sub(killed)), round(published.Sub(registered)), len(pods), 1000*took)
	gone := w.remove(t, pods[0], 10*time.Second)
	t.Logf("a pod deleted now is gone after %s", round(gone))

	back()
	for _, p := range pods {
		w.remove(t, p, 30*time.Second)
		w.noTraces(t, p, 30*time.Second)
	}
	still()
}

// TestNodeRebootLosesAndLeaksNoPin: after a power cut the node's mounts are gone, and
// kubelet's directories and the pins are what they were. With the Hub stopped, the pods
// come back to the same bytes; those that were deleted meanwhile leave nothing.
func TestNodeRebootLosesAndLeaksNoPin(t *testing.T) {
	w := onNode(t)
	w.healthy(t)
	still := w.mountsStay(t)
	m := w.publish(t, hub.LargeModel)
	volume := inline(m.repo)
	ns := w.namespace(t)
	always := func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyAlways }
	stay := []*corev1.Pod{
		w.create(t, w.pod(ns, "stays-1", &volume, always)),
		w.create(t, w.pod(ns, "stays-2", &volume, always)),
		w.create(t, w.pod(ns, "stays-user-namespace", &volume, always, func(p *corev1.Pod) { p.Spec.HostUsers = new(bool) })),
	}
	deleted := w.create(t, w.pod(ns, "deleted", &volume, always))
	forced := w.create(t, w.pod(ns, "forced", &volume, always))
	gone := []*corev1.Pod{deleted, forced}
	for _, p := range append(gone, stay...) {
		w.running(t, p, time.Minute)
	}
	w.check(t, stay[0], modelDir, m, "")
	pins := w.pinned(t)
	w.stopHub(t)

	on, booted := w.reboot(t, func() {
		now := int64(0)
		for p, options := range map[*corev1.Pod]metav1.DeleteOptions{deleted: {}, forced: {GracePeriodSeconds: &now}} {
			if err := w.client.CoreV1().Pods(ns).Delete(t.Context(), p.Name, options); err != nil {
				t.Error(err)
			}
		}
	})
	for _, p := range stay {
		if !exists(w.onDisk("/var/lib/kubelet/pods/" + string(p.UID))) {
			t.Errorf("kubelet's directory of %s is gone", p.Name)
		}
	}
	w.healthy(t)
	ready := time.Now()
	var ran []string
	for _, p := range stay {
		eventually(t, 2*time.Minute, func() string { return w.restarted(t.Context(), p) })
		w.check(t, p, modelDir, m, "")
		ran = append(ran, fmt.Sprintf("%s %s", p.Name, w.started(t, p).Sub(booted).Round(10*time.Millisecond)))
	}
	for _, p := range gone {
		w.lives.wait(t, p.UID, time.Minute, "gone", func(l life) bool { return !l.gone.IsZero() })
		w.noTraces(t, p, time.Minute)
	}
	clean := time.Now()
	w.pinsAreMounts(t, 10*time.Second)
	for target, pin := range w.pinned(t) {
		if pin != pins[target] {
			t.Errorf("the pin was lost, and made again: %s; was %s", pin, pins[target])
		}
	}
	counts := w.agentCounts(t) // from nothing: this agent is the first since the reboot
	onlyRose(t, nil, counts, acquires, acquiredHit, len(stay))
	if counts[fetchedBytes] != 0 {
		t.Errorf("%v bytes were fetched since the reboot", counts[fetchedBytes])
	}
	t.Logf("booted in %s; Ballast ready %s later; with the Hub stopped, containers ran again after: %s; nothing is left of two pods deleted meanwhile after %s",
		round(booted.Sub(on)), round(ready.Sub(booted)), strings.Join(ran, ", "), round(clean.Sub(booted)))
	for _, p := range stay {
		w.remove(t, p, 30*time.Second)
		w.noTraces(t, p, 10*time.Second)
	}
	still()
}

// reboot cuts the machine's power, and switches it on after meanwhile. It returns when
// that was, and when the machine was up.
func (w *world) reboot(t *testing.T, meanwhile func()) (on, booted time.Time) {
	t.Helper()
	boot := w.bootID(t)
	if err := w.machine.PowerCut(); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	on = time.Now()
	if err := w.machine.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	booted = time.Now()
	if id := w.bootID(t); id == boot {
		t.Errorf("the boot id is still %s: this was no reboot", id)
	}
	return on, booted
}

// restarted says what is missing until p's container runs for the second time.
func (w *world) restarted(ctx context.Context, p *corev1.Pod) string {
	now, err := w.client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	for _, c := range now.Status.ContainerStatuses {
		if c.RestartCount == 0 || c.State.Running == nil || now.UID != p.UID {
			return fmt.Sprintf("%s: %+v", p.Name, c)
		}
	}
	return ""
}

// stopHub makes the Hub unreachable until the test ends.
func (w *world) stopHub(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if err := w.hub.Resume(); err != nil {
			t.Error(err)
		}
	})
	if err := w.hub.Stop(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) bootID(t *testing.T) string {
	t.Helper()
	id, err := os.ReadFile(w.onDisk("/proc/sys/kernel/random/boot_id"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(id))
}
