package kube

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const node = "node-a"

// world is a Kube that runs on client-go's fake clientset. A fake is right here:
// what is tested is what this package makes of lists, watches and failures, in
// every order and on a clock that synctest owns. What the wire looks like is
// tested over HTTP (http_test.go), what a real API server does in e2e.
type world struct {
	*fake.Clientset
	kube *Kube
	stop func() // ends Run and waits for it
	logs *observer.ObservedLogs

	mu   sync.Mutex // guards told
	told []string   // the uids of Config.Deleting
}

// newWorld makes a world whose Kube does not run yet; call it in a bubble.
func newWorld(t *testing.T, pods ...*corev1.Pod) *world {
	t.Helper()
	w := &world{Clientset: fake.NewClientset(), stop: func() {}}
	for _, p := range pods {
		w.add(t, p)
	}
	core, logs := observer.New(zap.WarnLevel)
	w.logs = logs
	k, err := New(Config{Client: w, Node: node, Log: zap.New(core), Deleting: func(uid string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.told = append(w.told, uid)
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.kube = k
	return w
}

// run starts the Kube and returns when it watches.
func (w *world) run(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.kube.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { w.stop() })
	synctest.Wait()
	return w
}

// wantDeleting checks what Config.Deleting has been told so far.
func (w *world) wantDeleting(t *testing.T, uids ...string) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := slices.Sorted(slices.Values(w.told)); !slices.Equal(got, uids) {
		t.Fatalf("told that these pods are being deleted: %q; want %q", got, uids)
	}
}

func (w *world) add(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := w.Tracker().Add(pod); err != nil {
		t.Fatal(err)
	}
}

func (w *world) update(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := w.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, pod.Namespace); err != nil {
		t.Fatal(err)
	}
}

func (w *world) remove(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := w.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
}

// count is how many requests of this kind were made.
func (w *world) count(verb, resource string) int {
	n := 0
	for _, a := range w.Actions() {
		if a.Matches(verb, resource) {
			n++
		}
	}
	return n
}

func (w *world) events(t *testing.T) []corev1.Event {
	t.Helper()
	synctest.Wait()
	list, err := w.CoreV1().Events("ns").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// pod makes a pod as the API server shows it, with much that nobody asks here.
func pod(name, uid, version string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(uid), ResourceVersion: version,
			Labels:      map[string]string{"app": name},
			Annotations: map[string]string{"long": "text"},
		},
		Spec:   corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func deleting(p *corev1.Pod, version string) *corev1.Pod {
	p = p.DeepCopy()
	now := metav1.NewTime(time.Now())
	p.DeletionTimestamp = &now
	p.ResourceVersion = version
	return p
}

func named(p *corev1.Pod) Pod { return Pod{p.Namespace, p.Name, string(p.UID)} }
