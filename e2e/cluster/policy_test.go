package cluster

import (
	"context"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// attempt is something that the agent's account tries at the API server.
type attempt struct {
	what   string
	do     func(context.Context) error
	denied string // words of the refusal; empty: it is allowed
}

// tryAll fails the test for each attempt that ends in another way than it should.
func tryAll(t *testing.T, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		switch err := a.do(t.Context()); {
		case a.denied == "" && err != nil:
			t.Errorf("%s: %v", a.what, err)
		case a.denied != "" && err == nil:
			t.Errorf("%s: allowed", a.what)
		case a.denied != "" && (!apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), a.denied)):
			t.Errorf("%s: refused for another reason than %q: %v", a.what, a.denied, err)
		case err != nil:
			t.Logf("%s: %v", a.what, err)
		}
	}
}

// TestAgentsEventsAreInItsOwnNodesName: with the agent's own token. Which pod an event is
// about nothing holds, and that is said where the policy is.
func TestAgentsEventsAreInItsOwnNodesName(t *testing.T) {
	w := theWorld(t)
	ns := w.namespace(t)
	gated := w.named(t, "org/policy-gated")
	w.hub.Gated(gated.repo)
	volume := inline(gated.repo)
	p := w.create(t, w.pod(ns, "told", &volume))
	w.eventOf(t, p, 20*time.Second, "is gated") // kubelet's
	running, err := w.part(t.Context(), agent)
	if err != nil || running == nil {
		t.Fatalf("the agent's pod: %v", err)
	}
	here := running.Spec.NodeName
	bound, loose := w.asAgent(t, running), w.asAgent(t, nil)
	w.grantAgent(t, rbacv1.PolicyRule{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create"}})

	create := func(client kubernetes.Interface, edit func(*corev1.Event)) func(context.Context) error {
		return func(ctx context.Context) error {
			e := agentsEvent(p, here)
			edit(e)
			_, err := client.CoreV1().Events(ns).Create(ctx, e, metav1.CreateOptions{})
			return err
		}
	}
	patch := func(name, with string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := bound.CoreV1().Events(ns).Patch(ctx, name, types.MergePatchType, []byte(with), metav1.PatchOptions{})
			return err
		}
	}
	own, kubelets := agentsEvent(p, here).Name, w.events(t, p)[0].Name
	newer := func(reporter, instance string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := bound.EventsV1().Events(ns).Create(ctx, &eventsv1.Event{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "newer-", Namespace: ns}, EventTime: metav1.NowMicro(),
				ReportingController: reporter, ReportingInstance: instance, Action: "Fetch", Reason: "BallastFetching", Type: corev1.EventTypeNormal,
				Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: ns, Name: p.Name, UID: p.UID},
			}, metav1.CreateOptions{})
			return err
		}
	}
	tryAll(t, []attempt{
		{"its own event", create(bound, func(*corev1.Event) {}), ""},
		{"its own event again", patch(own, `{"count": 2, "message": "further"}`), ""},
		{"another node's instance", create(bound, func(e *corev1.Event) { e.ReportingInstance = "node-2" }), "must be the node of the agent's token, " + here},
		{"another node's host", create(bound, func(e *corev1.Event) { e.Source.Host = "node-2" }), "must be the node of the agent's token, " + here},
		{"no instance", create(bound, func(e *corev1.Event) { e.ReportingInstance = "" }), "must be the node of the agent's token"},
		{"in kubelet's name", create(bound, func(e *corev1.Event) { e.Source.Component = "kubelet" }), "must be ballast-agent"},
		{"in a controller's name", create(bound, func(e *corev1.Event) { e.ReportingController = "kubelet" }), "must be ballast-agent"},
		{"with a reason of kubelet's", create(bound, func(e *corev1.Event) { e.Reason = "Evicted" }), "its reason begin with Ballast"},
		{"about a Secret", create(bound, func(e *corev1.Event) { e.InvolvedObject.Kind = "Secret" }), "must be about a pod"},
		{"kubelet's event, changed", patch(kubelets, `{"message": "all is well"}`), "must be ballast-agent"},
		{"kubelet's event, taken over", patch(kubelets, `{"reportingComponent": "ballast-agent", "source": {"component": "ballast-agent"}}`), "must be ballast-agent"},
		{"its own event, given away", patch(own, `{"reportingInstance": "node-2"}`), "must be the node of the agent's token"},
		{"by way of events.k8s.io", newer("ballast-agent", "node-2"), "must be"},
		{"in kubelet's name by way of events.k8s.io", newer("kubelet", here), "must be ballast-agent"},
		{"with a token that names no node", create(loose, func(*corev1.Event) {}), "names no node"},
	})
	w.remove(t, p, 10*time.Second)
}

// agentsEvent is one as agent/kube makes it.
func agentsEvent(p *corev1.Pod, node string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name + ".e2e"},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Type:           corev1.EventTypeNormal, Reason: "BallastFetching", Message: "so far", Count: 1,
		FirstTimestamp: metav1.Now(), LastTimestamp: metav1.Now(),
		Source:              corev1.EventSource{Component: "ballast-agent", Host: node},
		ReportingController: "ballast-agent", ReportingInstance: node,
	}
}

// TestAgentCannotChangeANodeBeyondItsOwnLabels: not even where it is given every right to
// Nodes that there is, as this test does for a moment.
func TestAgentCannotChangeANodeBeyondItsOwnLabels(t *testing.T) {
	w := onNode(t) // another cluster's Node is not ours to write
	running, err := w.part(t.Context(), agent)
	if err != nil || running == nil {
		t.Fatalf("the agent's pod: %v", err)
	}
	here, other := running.Spec.NodeName, "node-2"
	bound, loose := w.asAgent(t, running), w.asAgent(t, nil)
	w.grantAgent(t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes", "nodes/status", "nodes/proxy"}, Verbs: []string{"*"}})
	// Without the label of an operating system no DaemonSet's pod goes there.
	if _, err := w.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: other, Labels: map[string]string{"e2e": "other"}},
		Spec: corev1.NodeSpec{Unschedulable: true}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		clean := `{"metadata": {"labels": {"ballast.dev/e2e": null, "e2e": null}, "annotations": {"ballast.dev/e2e": null}}}`
		_, err := w.client.CoreV1().Nodes().Patch(context.Background(), here, types.MergePatchType, []byte(clean), metav1.PatchOptions{})
		if err != nil {
			t.Error(err)
		}
		if err := w.client.CoreV1().Nodes().Delete(context.Background(), other, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})

	patch := func(client kubernetes.Interface, node, with string, subresource ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(with), metav1.PatchOptions{}, subresource...)
			return err
		}
	}
	const ours = `{"metadata": {"labels": {"ballast.dev/e2e": "warm"}, "annotations": {"ballast.dev/e2e": "warm"}}}`
	const onlyMetadata, onlyOurs = "labels and annotations and nothing else", "below ballast.dev/ and no others"
	attempts := []attempt{
		{"reads its own", func(ctx context.Context) error {
			_, err := bound.CoreV1().Nodes().Get(ctx, here, metav1.GetOptions{})
			return err
		}, ""},
		{"labels its own", patch(bound, here, ours), ""},
		{"takes its label away", patch(bound, here, `{"metadata": {"labels": {"ballast.dev/e2e": null}}}`), ""},
		{"labels another", patch(bound, other, ours), "is for node " + here + " alone"},
		{"labels its own with a token that names no node", patch(loose, here, ours), "names no node"},
		{"takes another's label", patch(bound, here, `{"metadata": {"labels": {"kubernetes.io/os": null}}}`), onlyOurs},
		{"changes another's label", patch(bound, here, `{"metadata": {"labels": {"kubernetes.io/os": "plan9"}}}`), onlyOurs},
		{"adds another label", patch(bound, here, `{"metadata": {"labels": {"e2e": "1"}}}`), onlyOurs},
		{"adds a label that looks like its own", patch(bound, here, `{"metadata": {"labels": {"ballast.dev.example/e2e": "1"}}}`), onlyOurs},
		{"adds another annotation", patch(bound, here, `{"metadata": {"annotations": {"e2e": "1"}}}`), onlyOurs},
		{"takes all labels", patch(bound, here, `{"metadata": {"labels": null}}`), onlyOurs},
		{"taints", patch(bound, here, `{"spec": {"taints": [{"key": "e2e", "effect": "NoExecute"}]}}`), onlyMetadata},
		{"cordons", patch(bound, here, `{"spec": {"unschedulable": true}}`), onlyMetadata},
		{"holds its removal up", patch(bound, here, `{"metadata": {"finalizers": ["example.com/e2e"]}}`), onlyMetadata},
		{"gives it an owner", patch(bound, here, `{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "ballast", "uid": "1"}]}}`), onlyMetadata},
		{"changes its status", patch(bound, here, `{"status": {"capacity": {"example.com/gpu": "8"}}}`, "status"), "metadata and nothing else"},
		{"removes its own", func(ctx context.Context) error {
			return bound.CoreV1().Nodes().Delete(ctx, here, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
		}, "metadata and nothing else"},
		{"removes another", func(ctx context.Context) error {
			return bound.CoreV1().Nodes().Delete(ctx, other, metav1.DeleteOptions{})
		}, "is for node " + here + " alone"},
		{"removes all of a kind", func(ctx context.Context) error {
			return bound.CoreV1().Nodes().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "e2e=other"})
		}, "is for node " + here + " alone"},
		{"makes one", func(ctx context.Context) error {
			_, err := bound.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-3"}}, metav1.CreateOptions{})
			return err
		}, "is for node " + here + " alone"},
		{"asks its kubelet", func(ctx context.Context) error {
			return bound.CoreV1().RESTClient().Get().Resource("nodes").Name(here).SubResource("proxy").Suffix("pods").Do(ctx).Error()
		}, "metadata and nothing else"},
	}
	tryAll(t, attempts)
	after, err := w.client.CoreV1().Nodes().Get(t.Context(), here, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if after.Labels["kubernetes.io/os"] != "linux" || after.Spec.Unschedulable || len(after.Spec.Taints) > 0 || len(after.Finalizers) > 0 {
		t.Errorf("the Node is another: %+v, %+v", after.ObjectMeta, after.Spec)
	}
}

// asAgent is a client with a token of the agent's account: bound to its pod, as kubelet
// asks for one, or to nothing.
func (w *world) asAgent(t *testing.T, pod *corev1.Pod) kubernetes.Interface {
	t.Helper()
	request := &authv1.TokenRequest{}
	if pod != nil {
		request.Spec.BoundObjectRef = &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	made, err := w.client.CoreV1().ServiceAccounts("ballast").CreateToken(t.Context(), "ballast-agent", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(w.config)
	config.BearerToken = made.Status.Token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// grantAgent gives the agent's account a right more until the test ends, and returns when
// the API server knows.
func (w *world) grantAgent(t *testing.T, rule rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "ballast-e2e-" + strings.ToLower(t.Name()), Labels: map[string]string{managedBy: scenarios}}
	roles := w.client.RbacV1()
	t.Cleanup(func() {
		for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{roles.ClusterRoleBindings().Delete, roles.ClusterRoles().Delete} {
			if err := remove(context.Background(), meta.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
	})
	if _, err := roles.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := roles.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "ballast-agent", Namespace: "ballast"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() string {
		said, err := w.kubectlOutput(t.Context(), append([]string{"auth", "can-i", "--list"}, asAccount(agent)...)...)
		if err != nil || !strings.Contains(said, rule.Resources[0]+"."+rule.APIGroups[0]) && !strings.Contains(said, rule.Resources[0]+" ") {
			return errorText(err) + said
		}
		return ""
	})
}

// asAccount has kubectl ask in the name of a part of Ballast.
func asAccount(part string) []string {
	return []string{"-n", "ballast", "--as=system:serviceaccount:ballast:ballast-" + part}
}
