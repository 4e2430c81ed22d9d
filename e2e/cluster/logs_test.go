package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// logged is when Ballast's component on p's node wrote a line, since p was created, that
// has the message and a word.
func (w *world) logged(t *testing.T, component string, p *corev1.Pod, message, word string) time.Time {
	t.Helper()
	var at time.Time
	eventually(t, 10*time.Second, func() string {
		said := w.saidBy(t, component, p)
		for line := range strings.Lines(said) {
			var l struct {
				TS  time.Time
				Msg string
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Msg == message && strings.Contains(line, word) {
				at = l.TS
				return ""
			}
		}
		return fmt.Sprintf("the %s's log has no %q with %q:\n%s", component, message, word, said)
	})
	return at
}

// saidBy is the log of Ballast's component on p's node since p was created.
func (w *world) saidBy(t *testing.T, component string, p *corev1.Pod) string {
	t.Helper()
	one, _ := w.lives.get(p.UID)
	pods, err := w.client.CoreV1().Pods("ballast").List(t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=" + component, FieldSelector: "spec.nodeName=" + one.pod.Spec.NodeName})
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, b := range pods.Items {
		said, err := w.client.CoreV1().Pods("ballast").GetLogs(b.Name, &corev1.PodLogOptions{Container: component, SinceTime: &p.CreationTimestamp}).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, said...)
	}
	return string(all)
}

// events are those of p, oldest first.
func (w *world) events(t *testing.T, p *corev1.Pod) []corev1.Event {
	t.Helper()
	list, err := w.client.CoreV1().Events(p.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(p.UID)})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	return list.Items
}
