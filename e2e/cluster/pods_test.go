package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

const driver = "csi.ballast.dev"

// modelDir is where pods mount their model.
const modelDir = "/model"

// The label of the scenarios' namespaces.
const (
	managedBy = "app.kubernetes.io/managed-by"
	scenarios = "ballast-e2e"
)

// namespace makes a namespace for one scenario, which goes with it, and with it its
// pods. A failed scenario prints its events first.
func (w *world) namespace(t *testing.T) string {
	t.Helper()
	ns, err := w.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "e2e-", Labels: map[string]string{managedBy: scenarios}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if t.Failed() {
			w.explain(ctx, t, ns.Name)
		}
		if err := w.client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	eventually(t, time.Minute, func() string { // no pod is admitted before
		_, err := w.client.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return errorText(err)
	})
	return ns.Name
}

// explain prints what a person would look at first.
func (w *world) explain(ctx context.Context, t *testing.T, ns string) {
	for _, args := range [][]string{
		{"-n", ns, "get", "pods", "-o", "wide"},
		{"-n", ns, "get", "events", "--sort-by=.lastTimestamp"},
		{"-n", "ballast", "get", "pods", "-o", "wide"},
		{"-n", "ballast", "logs", "-l", "app.kubernetes.io/component=agent", "--tail=40"},
		{"-n", "ballast", "logs", "-l", "app.kubernetes.io/component=csi", "--tail=40"},
	} {
		said, err := w.kubectlOutput(ctx, args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, said)
	}
}

// inline is the volume of the README: a snapshot of repo, with attributes in pairs.
func inline(repo string, attributes ...string) corev1.VolumeSource {
	all := map[string]string{"repo": repo}
	for i := 0; i < len(attributes); i += 2 {
		all[attributes[i]] = attributes[i+1]
	}
	readOnly := true
	return corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: driver, ReadOnly: &readOnly, VolumeAttributes: all}}
}

// pod is one with a container that holds, and the volume at modelDir; edits change it.
func (w *world) pod(ns, name string, volume *corev1.VolumeSource, edits ...func(*corev1.Pod)) *corev1.Pod {
	no, soon := false, int64(1) // 0 would take a pod from the API before it has ended
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &soon,
			Containers:                    []corev1.Container{{Name: "main", Image: w.podImage, Args: []string{"hold"}}},
		},
	}
	if volume != nil {
		p.Spec.Volumes = []corev1.Volume{{Name: "model", VolumeSource: *volume}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "model", MountPath: modelDir, ReadOnly: true}}
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

// create creates p.
func (w *world) create(t *testing.T, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := w.client.CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// running waits until p's container runs.
func (w *world) running(t *testing.T, p *corev1.Pod, limit time.Duration) life {
	t.Helper()
	return w.lives.wait(t, p.UID, limit, "running", func(l life) bool { return !l.running.IsZero() })
}

// remove deletes p and returns how long it took until it was gone.
func (w *world) remove(t *testing.T, p *corev1.Pod, limit time.Duration) time.Duration {
	t.Helper()
	asked := time.Now()
	if err := w.client.CoreV1().Pods(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return w.lives.wait(t, p.UID, limit, "gone", func(l life) bool { return !l.gone.IsZero() }).gone.Sub(asked)
}

// started is when p's container began to run, by its own word.
func (w *world) started(t *testing.T, p *corev1.Pod) time.Time {
	t.Helper()
	var at time.Time
	eventually(t, 10*time.Second, func() string {
		said, err := w.client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
		if err != nil {
			return err.Error()
		}
		line, _, _ := strings.Cut(string(said), "\n")
		at, err = time.Parse("started "+time.RFC3339Nano, line)
		return errorText(err)
	})
	return at
}

// exec runs a command of the pod's image in p's container and returns what it said.
func (w *world) exec(t *testing.T, p *corev1.Pod, args ...string) []byte {
	t.Helper()
	request := w.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: append([]string{"/pod"}, args...), Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(w.config, "GET", request.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &said}); err != nil {
		t.Fatalf("exec %q in %s: %v: %s", args, p.Name, err, said.String())
	}
	return out.Bytes()
}

// messages are those of p's events, oldest first.
func (w *world) messages(t *testing.T, p *corev1.Pod) []string {
	t.Helper()
	var texts []string
	for _, e := range w.events(t, p) {
		texts = append(texts, fmt.Sprintf("%s %s (%s, %d times): %s", e.Type, e.Reason, e.Source.Component, max(e.Count, 1), e.Message))
	}
	return texts
}

// eventOf waits for an event of p that has all of words, and returns it.
func (w *world) eventOf(t *testing.T, p *corev1.Pod, limit time.Duration, words ...string) string {
	t.Helper()
	var found string
	eventually(t, limit, func() string {
		all := w.messages(t, p)
		for _, m := range all {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(m, word) }) {
				found = m
				return ""
			}
		}
		return fmt.Sprintf("no event with %q in:\n%s", words, strings.Join(all, "\n"))
	})
	return found
}

// eventually asks what is missing until nothing is, or fails the test.
func eventually(t *testing.T, limit time.Duration, missing func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		m := missing()
		if m == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %s", limit, m)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-interrupted.Done():
			t.Fatalf("interrupted: %s", m)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// decode reads what a command of the pod's image said.
func decode[T any](t *testing.T, said []byte) T {
	t.Helper()
	var v T
	if err := json.NewDecoder(bytes.NewReader(said)).Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("%v in %q", err, said)
	}
	return v
}
