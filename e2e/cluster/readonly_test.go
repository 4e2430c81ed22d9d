package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/e2e/node"
	"github.com/ballast-csi/ballast/e2e/pod/report"
)

// TestNoPodChangesTheCache: not as root, not with every capability. The volume of a
// claim is the hard one: it may come without readOnly, and then the container runtime
// itself takes the flag off the mount.
func TestNoPodChangesTheCache(t *testing.T) {
	w := onNode(t)
	still := w.mountsStay(t)
	m := w.publish(t, hub.SmallModel)
	ns := w.namespace(t)
	volume, claim := inline(m.repo), w.claim(t, ns, m.repo)
	for _, c := range []struct {
		name    string
		volume  *corev1.VolumeSource
		edit    func(*corev1.Pod)
		remount bool // the kernel lets a remount of the mount alone through
	}{
		{"inline", &volume, func(*corev1.Pod) {}, true},
		{"claim-without-readonly", &claim, func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].ReadOnly = false }, true},
		{"user-namespace", &volume, func(p *corev1.Pod) { p.Spec.HostUsers = new(bool) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := w.create(t, w.pod(ns, c.name, c.volume, allPowerful, c.edit))
			w.running(t, p, time.Minute)
			w.onlyPinned(t)
			before := w.cacheState(t, ".")
			tries := w.attack(t, p)
			entries := different(before, w.cacheState(t, "."))
			if len(entries) > 0 {
				t.Errorf("the cache is another:\n%s", strings.Join(entries, "\n"))
			}
			if names := those(tries, changed); len(names) > 0 {
				t.Errorf("the volume was changed by %q", names)
			}
			// Else the container had not the capabilities, and the rest says little.
			if allowed := tries["remount of the mount"].Error == ""; allowed != c.remount {
				t.Errorf("remount of the mount was let through: %t; want %t", allowed, c.remount)
			}
			t.Logf("%d attempts, %d let through; %d of the cache's %d entries are others", len(tries), len(those(tries, letThrough)), len(entries), len(before))
			w.remove(t, p, 30*time.Second)
			w.noTraces(t, p, 10*time.Second)
		})
	}
	// What a user namespace needs is a bind, and that the runtime would make writable.
	t.Run("user-namespace-claim-without-readonly", func(t *testing.T) {
		p := w.create(t, w.pod(ns, "refused", &claim, func(p *corev1.Pod) { p.Spec.HostUsers = new(bool) }))
		t.Log(w.eventOf(t, p, 20*time.Second, "hostUsers: false", "set readOnly: true in the pod's persistentVolumeClaim"))
		w.nothingFor(t, p)
		w.remove(t, p, 10*time.Second)
		w.noTraces(t, p, 10*time.Second)
	})
	still()
}

// TestAttackOnAReadOnlyBindIsSeen shows what TestNoPodChangesTheCache is worth: with
// the mount that a plain driver makes, and readOnly left out, this runc lets the very
// same attack through, and the very same comparison tells.
func TestAttackOnAReadOnlyBindIsSeen(t *testing.T) {
	w := onNode(t)
	m := w.publish(t, hub.SmallModel)
	ns := w.namespace(t)
	volume := inline(m.repo)
	shown := w.create(t, w.pod(ns, "shown", &volume))
	w.running(t, shown, time.Minute)
	view := "/var/lib/kubelet/pods/" + string(shown.UID) + "/volumes/kubernetes.io~csi/model/mount"
	copied, bound := node.CacheDisk+"/copy", node.CacheDisk+"/bound"
	if err := errors.Join(os.CopyFS(w.onDisk(copied), os.DirFS(w.onDisk(view))), os.Mkdir(w.onDisk(bound), 0o755)); err != nil {
		t.Fatal(err)
	}
	w.enter(t, "mount", "--bind", copied, bound)
	w.enter(t, "mount", "-o", "remount,bind,ro", bound)
	t.Cleanup(func() {
		w.enter(t, "umount", bound)
		if err := errors.Join(os.Remove(w.onDisk(bound)), os.RemoveAll(w.onDisk(copied))); err != nil {
			t.Error(err)
		}
	})

	wrong := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: bound}}
	p := w.create(t, w.pod(ns, "attack", &wrong, allPowerful, func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].ReadOnly = false }))
	w.running(t, p, time.Minute)
	below, err := filepath.Rel(cacheDir, copied)
	if err != nil {
		t.Fatal(err)
	}
	before := w.cacheState(t, below)
	tries := w.attack(t, p)
	entries := different(before, w.cacheState(t, below))
	if len(entries) == 0 {
		t.Error("the comparison sees no change")
	}
	if first := tries["open O_WRONLY"]; !first.Changed {
		t.Errorf("runc left the bind read-only: %+v", first)
	}
	t.Logf("%d of %d attempts changed the volume; %d of %d entries are others", len(those(tries, changed)), len(tries), len(entries), len(before))
	w.removeAll(t, []*corev1.Pod{shown, p}, 30*time.Second)
	w.noTraces(t, shown, 10*time.Second)
}

// onlyPinned waits until no more than one volume is pinned: the pods of a scenario
// before may still be on their way out, and their leaving changes the cache too.
func (w *world) onlyPinned(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		pins, err := filepath.Glob(w.onDisk(cacheDir + "/pins/*"))
		if err != nil || len(pins) != 1 {
			return fmt.Sprintf("%d volumes are pinned; want one: %v", len(pins), err)
		}
		return ""
	})
}

// allPowerful is what a pod may be that is not privileged.
func allPowerful(p *corev1.Pod) {
	root := int64(0)
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		RunAsUser:      &root,
		Capabilities:   &corev1.Capabilities{Add: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined},
	}
}

// attack has p attack its volume, and returns each attempt by its name.
func (w *world) attack(t *testing.T, p *corev1.Pod) map[string]report.Attempt {
	t.Helper()
	said := json.NewDecoder(bytes.NewReader(w.exec(t, p, "attack", modelDir, "/dev/shm")))
	tries := map[string]report.Attempt{}
	for {
		var a report.Attempt
		err := said.Decode(&a)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		tries[a.Attempt] = a
	}
	if len(tries) < 100 { // three times all, and the last
		t.Errorf("only %d attempts: %v", len(tries), slices.Sorted(maps.Keys(tries)))
	}
	return tries
}

func changed(a report.Attempt) bool    { return a.Changed }
func letThrough(a report.Attempt) bool { return a.Error == "" }

// those are the names of those that are such.
func those(tries map[string]report.Attempt, such func(report.Attempt) bool) (names []string) {
	for name, a := range tries {
		if such(a) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// different tells how two cacheStates differ.
func different(before, after map[string]string) (entries []string) {
	all := maps.Clone(before)
	maps.Copy(all, after)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if before[path] != after[path] {
			entries = append(entries, path+": "+before[path]+" -> "+after[path])
		}
	}
	return entries
}

// claim is a volume of repo by way of a PersistentVolume that does not say readOnly.
func (w *world) claim(t *testing.T, ns, repo string) corev1.VolumeSource {
	t.Helper()
	none, name := "", ns+"-claim"
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	volumes := w.client.CoreV1().PersistentVolumes()
	if _, err := volumes.Create(t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: modes, StorageClassName: none,
		ClaimRef: &corev1.ObjectReference{Namespace: ns, Name: "model"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: name,
			VolumeAttributes: map[string]string{"repo": repo}}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := volumes.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if _, err := w.client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "model"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: &none, VolumeName: name, Resources: corev1.VolumeResourceRequirements{Requests: size}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "model"}}
}

// enter runs a command among the node's mounts.
func (w *world) enter(t *testing.T, args ...string) {
	t.Helper()
	mounts := strings.TrimSuffix(w.machine.Root(), "root") + "ns/mnt"
	if said, err := exec.Command("nsenter", append([]string{"--mount=" + mounts}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%q on the node: %v: %s", args, err, said)
	}
}
