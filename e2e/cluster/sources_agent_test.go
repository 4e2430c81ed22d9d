package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the manifests let an operator put into Ballast's namespace, and where the agent has
// the second.
const (
	configMap    = "ballast"           // config.yaml, the agent's --config
	manifestsMap = "ballast-manifests" // what `ballast manifest` printed, by file
	manifestsDir = "/etc/ballast/manifests"
)

// operator changes the agent's settings as a person does: ConfigMaps are applied, and
// the DaemonSet is rolled.
type operator struct {
	w      *world
	shares []share
	rolls  []time.Duration
}

// operate has the agent mount these shares, and what it was before be put back when the
// test ends. It rolls nothing yet.
func (w *world) operate(t *testing.T, shares ...share) *operator {
	t.Helper()
	ds, err := w.client.AppsV1().DaemonSets("ballast").Get(t.Context(), "ballast-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	was := ds.Spec.Template
	o := &operator{w: w, shares: shares}
	t.Cleanup(func() {
		for _, name := range []string{configMap, manifestsMap} { // first: an agent without the shares refuses them
			if err := w.client.CoreV1().ConfigMaps("ballast").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
		w.rollAgent(context.Background(), t, func(ds *appsv1.DaemonSet) { ds.Spec.Template = was })
		t.Logf("the agent was rolled to each of the configurations in %v", o.rolls)
	})
	return o
}

// apply makes a ConfigMap, or changes it.
func (o *operator) apply(t *testing.T, name string, data map[string]string) {
	t.Helper()
	maps := o.w.client.CoreV1().ConfigMaps("ballast")
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	_, err := maps.Create(t.Context(), object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = maps.Update(t.Context(), object, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// roll has a new agent run with this configuration, in these groups, and returns when it
// is ready.
func (o *operator) roll(t *testing.T, config string, groups ...int64) {
	t.Helper()
	asked := time.Now()
	o.apply(t, configMap, map[string]string{"config.yaml": config})
	o.w.rollAgent(t.Context(), t, func(ds *appsv1.DaemonSet) {
		if ds.Spec.Template.Annotations == nil {
			ds.Spec.Template.Annotations = map[string]string{}
		}
		ds.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] = asked.Format(time.RFC3339Nano) // as `kubectl rollout restart` does
		pod := &ds.Spec.Template.Spec
		pod.SecurityContext.SupplementalGroups = groups
		o.mount(pod)
	})
	o.w.healthy(t)
	o.rolls = append(o.rolls, round(time.Since(asked)))
}

// mount gives the agent the shares, read-only.
func (o *operator) mount(pod *corev1.PodSpec) {
	for _, s := range o.shares {
		name := "source-" + s.name
		if slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == name }) {
			continue // an earlier roll did
		}
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: s.name, ReadOnly: true}}})
		pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: s.mounted(), ReadOnly: true})
	}
}

// entry is this share among `sources`.
func (s share) entry(authority bool) string {
	return fmt.Sprintf("- {name: %s, pvc: {dir: %s, authority: %t}}", s.name, s.mounted(), authority)
}

// settings is a configuration of these parts, each one or more lines.
func settings(lines ...string) string { return strings.Join(lines, "\n") + "\n" }

// given is what each Source gave, and what was told of those that were passed over.
type given struct {
	bytes  map[string]int64 // by Source; 0 is left out
	passed map[string]int64 // by "source reason"
}

// fetched is the reason of the event that sums up where a snapshot came from.
const fetched = "Normal BallastFetched"

// Series of the agent's metrics.
const (
	fetchedBytesOf = "ballast_fetched_bytes_total"
	passedOverOf   = "ballast_source_passed_total"
)

// given is what the Sources gave, and were passed over for, since the agent's metrics were
// before; nil: since it started, which each roll makes it do.
func (w *world) given(t *testing.T, before map[string]float64) given {
	t.Helper()
	g := given{map[string]int64{}, map[string]int64{}}
	for series, n := range w.agentCounts(t) {
		n := int64(math.Round(n - before[series]))
		name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		switch {
		case n == 0:
		case name == fetchedBytesOf:
			g.bytes[labelOf(labels, "source")] = n
		case name == passedOverOf:
			g.passed[labelOf(labels, "source")+" "+labelOf(labels, "reason")] = n
		}
	}
	return g
}

// labelOf is the value of a label, of those of one series.
func labelOf(labels, name string) string {
	_, rest, _ := strings.Cut(labels, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func (g given) String() string {
	text := func(counts map[string]int64, unit string) string {
		var parts []string
		for _, key := range slices.Sorted(maps.Keys(counts)) {
			parts = append(parts, fmt.Sprintf("%s %d%s", key, counts[key], unit))
		}
		return cmp.Or(strings.Join(parts, ", "), "none")
	}
	return "bytes by source: " + text(g.bytes, "") + "; passed over: " + text(g.passed, " times")
}

// gave checks what each Source gave, in bytes.
func (g given) gave(t *testing.T, want map[string]int64) {
	t.Helper()
	if !maps.Equal(g.bytes, want) {
		t.Errorf("%s; want %v", g, want)
	}
}

// saidOf is what Ballast told on p, one event a line.
func (w *world) saidOf(t *testing.T, p *corev1.Pod) string {
	t.Helper()
	return strings.Join(slices.DeleteFunc(w.messages(t, p), func(m string) bool {
		return !strings.Contains(m, "ballast-agent") && !strings.Contains(m, "FailedMount")
	}), "\n")
}

// only are m's files of which keep is true.
func (m model) only(keep func(name string) bool) model {
	kept := map[string][]byte{}
	for name, content := range m.files {
		if keep(name) {
			kept[name] = content
		}
	}
	m.files = kept
	return m
}
