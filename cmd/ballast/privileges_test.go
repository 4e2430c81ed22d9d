package main

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestManifestsAreAllListedAndTheImageIsSetOnce(t *testing.T) {
	k := readKustomization(t)
	entries, err := os.ReadDir(manifestsDir)
	must(t, err)
	for _, e := range entries {
		if e.Name() != "kustomization.yaml" && !slices.Contains(k.Resources, e.Name()) {
			t.Errorf("kustomization.yaml does not list %s", e.Name())
		}
	}
	m := readManifests(t)
	prepare, agent, csi, _ := m.processes(t)
	for _, p := range []started{prepare, agent, csi} {
		if len(k.Images) != 1 || p.in.Image != k.Images[0].Name {
			t.Errorf("container %s has image %q, which kustomization.yaml does not set: %v", p.in.Name, p.in.Image, k.Images)
		}
	}
	for what, namespace := range map[string]string{
		"agent": m.agent.Namespace, "quota": m.quota.Namespace, "csi": m.csi.Namespace, "binding": m.binding.Subjects[0].Namespace,
		"agent's account": m.accounts["ballast-agent"].Namespace, "driver's account": m.accounts["ballast-csi"].Namespace,
	} {
		if namespace != m.namespace.Name {
			t.Errorf("%s: namespace %q; want %q", what, namespace, m.namespace.Name)
		}
	}
}

func TestDaemonSetsRunOnEveryNodeOneOfEach(t *testing.T) {
	m := readManifests(t)
	withDaemonSets := &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: "eks.amazonaws.com/compute-type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"fargate"}},
			{Key: "type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual-kubelet"}},
		}}},
	}}}
	// Two agents cannot hold one cache, and kubelet refuses a second driver.
	none, tenth := intstr.FromInt32(0), intstr.FromString("10%")
	roll := appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &none, MaxUnavailable: &tenth}}
	for _, d := range []appsv1.DaemonSet{m.agent, m.csi} {
		pod := d.Spec.Template.Spec
		if !reflect.DeepEqual(pod.Tolerations, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}) {
			t.Errorf("%s: tolerations %v; GPU nodes are tainted", d.Name, pod.Tolerations)
		}
		if !reflect.DeepEqual(pod.NodeSelector, map[string]string{"kubernetes.io/os": "linux"}) || !reflect.DeepEqual(pod.Affinity, withDaemonSets) {
			t.Errorf("%s: node selector %v, affinity %v", d.Name, pod.NodeSelector, pod.Affinity)
		}
		if !reflect.DeepEqual(d.Spec.Selector.MatchLabels, d.Spec.Template.Labels) {
			t.Errorf("%s selects %v and makes %v", d.Name, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels)
		}
		if !reflect.DeepEqual(d.Spec.UpdateStrategy, roll) {
			t.Errorf("%s is rolled as %v", d.Name, d.Spec.UpdateStrategy)
		}
		if pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.TerminationGracePeriodSeconds == nil {
			t.Errorf("%s: host namespaces, or no grace period: %+v", d.Name, pod)
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
				t.Errorf("%s: why it ended is not shown in the pod's status", c.Name)
			}
		}
	}
}

// TestQuotaAllowsThePriority: without that some clusters refuse it outside kube-system.
func TestQuotaAllowsThePriority(t *testing.T) {
	m := readManifests(t)
	priority := "system-node-critical"
	for _, d := range []appsv1.DaemonSet{m.agent, m.csi} {
		if d.Spec.Template.Spec.PriorityClassName != priority {
			t.Errorf("%s has priority %q; want %q", d.Name, d.Spec.Template.Spec.PriorityClassName, priority)
		}
	}
	want := corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1G")}, // of any cluster
		ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{priority}},
		}},
	}
	if !apiequality.Semantic.DeepEqual(m.quota.Spec, want) {
		t.Errorf("the quota is %+v; want %+v", m.quota.Spec, want)
	}
}

// TestPodsSeeOfTheNodeNoMoreThanTheyNeed: all that they mount, and how.
func TestPodsSeeOfTheNodeNoMoreThanTheyNeed(t *testing.T) {
	m := readManifests(t)
	prepare, agent, csi, _ := m.processes(t)
	for _, w := range []struct {
		process started
		mounts  []string // from the node's path, with its type, to the container's
	}{
		{prepare, []string{
			"/var/lib/ballast (DirectoryOrCreate) on /var/lib/ballast",
			"/run/ballast (DirectoryOrCreate) on /run/ballast",
		}},
		{agent, []string{
			"/var/lib/ballast (DirectoryOrCreate) on /var/lib/ballast",
			"/run/ballast (DirectoryOrCreate) on /run/ballast",
			"/run/ballast-csi (DirectoryOrCreate) on /run/ballast-csi, read-only",
			"ConfigMap ballast on /etc/ballast, read-only",
			"ConfigMap ballast-manifests on /etc/ballast/manifests, read-only",
		}},
		{csi, []string{
			"/var/lib/ballast (DirectoryOrCreate) on /var/lib/ballast, read-only",
			"/var/lib/kubelet/pods (Directory) on /var/lib/kubelet/pods, Bidirectional",
			"/var/lib/kubelet/plugins/csi.ballast.dev (DirectoryOrCreate) on /csi",
			"/var/lib/kubelet/plugins_registry (Directory) on /registration",
			"/run/ballast (DirectoryOrCreate) on /run/ballast, read-only",
			"/run/ballast-csi (DirectoryOrCreate) on /run/ballast-csi",
		}},
	} {
		if got := w.process.mounts(); !slices.Equal(got, w.mounts) {
			t.Errorf("ballast %s mounts\n%s\nwant\n%s", w.process.name, strings.Join(got, "\n"), strings.Join(w.mounts, "\n"))
		}
	}
	for _, p := range []started{agent, csi} {
		if len(p.pod.Volumes) != len(p.in.VolumeMounts) {
			t.Errorf("ballast %s mounts %d of its pod's %d volumes", p.name, len(p.in.VolumeMounts), len(p.pod.Volumes))
		}
	}
}

// mounts says what the container sees of the node, and how.
func (s started) mounts() []string {
	var all []string
	for _, m := range s.in.VolumeMounts {
		i := slices.IndexFunc(s.pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i >= 0 && s.pod.Volumes[i].ConfigMap != nil && m.ReadOnly { // nothing of the node's
			all = append(all, fmt.Sprintf("ConfigMap %s on %s, read-only", s.pod.Volumes[i].ConfigMap.Name, m.MountPath))
			continue
		}
		if i < 0 || !reflect.DeepEqual(s.pod.Volumes[i].VolumeSource, corev1.VolumeSource{HostPath: s.pod.Volumes[i].HostPath}) || s.pod.Volumes[i].HostPath.Type == nil {
			s.t.Errorf("%s: volume %s is no hostPath with a type", s.in.Name, m.Name)
			continue
		}
		host := s.pod.Volumes[i].HostPath
		said := fmt.Sprintf("%s (%s) on %s", host.Path, *host.Type, m.MountPath)
		if m.ReadOnly {
			said += ", read-only"
		}
		if m.MountPropagation != nil {
			said += ", " + string(*m.MountPropagation)
		}
		if m.SubPath != "" || m.SubPathExpr != "" {
			said += ", below " + m.SubPath + m.SubPathExpr
		}
		all = append(all, said)
	}
	return all
}

func TestAgentHasNoPrivileges(t *testing.T) {
	m := readManifests(t)
	prepare, agent, _, _ := m.processes(t)
	pod := corev1.PodSecurityContext{
		RunAsUser: new(int64(defaultAgentUID)), RunAsGroup: new(int64(defaultAgentUID)), RunAsNonRoot: new(true),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if got := m.agent.Spec.Template.Spec.SecurityContext; !reflect.DeepEqual(*got, pod) {
		t.Errorf("the agent's pod runs as %+v; want %+v", got, pod)
	}
	none := corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	if !reflect.DeepEqual(*agent.in.SecurityContext, none) {
		t.Errorf("the agent runs with %+v", agent.in.SecurityContext)
	}
	if len(agent.in.Resources.Limits) != 0 || len(agent.in.Resources.Requests) != 2 {
		t.Errorf("the agent's resources are %v: a memory limit counts the page cache of downloads", agent.in.Resources)
	}
	// What these are for: TestPrepareNeedsTheManifestsCapabilities.
	root := none
	root.RunAsUser, root.RunAsGroup, root.RunAsNonRoot = new(int64), new(int64), new(false)
	root.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER"}}
	if !reflect.DeepEqual(*prepare.in.SecurityContext, root) {
		t.Errorf("prepare runs with %+v", prepare.in.SecurityContext)
	}
	if agent.in.StartupProbe == nil || agent.in.LivenessProbe == nil || agent.in.ReadinessProbe == nil {
		t.Fatal("the agent lacks a probe")
	}
	for p, path := range map[*corev1.Probe]string{
		agent.in.StartupProbe: "/healthz", agent.in.LivenessProbe: "/healthz", agent.in.ReadinessProbe: "/readyz",
	} {
		if p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Port.String() != agent.in.Ports[0].Name {
			t.Errorf("the probe of %s asks %+v", path, p.HTTPGet)
		}
	}
	if start := agent.in.StartupProbe; start.PeriodSeconds*start.FailureThreshold < 600 {
		t.Errorf("a large cache that is checked at the start is given %d times %d s", start.FailureThreshold, start.PeriodSeconds)
	}
}

func TestDriverHasNoNetworkAndNoToken(t *testing.T) {
	m := readManifests(t)
	_, _, csi, _ := m.processes(t)
	pod := m.csi.Spec.Template.Spec
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the driver's pod gets a token of the API server")
	}
	if account := m.accounts[pod.ServiceAccountName]; account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
		t.Errorf("the driver's account is %+v", account)
	}
	if len(csi.in.Ports) != 0 {
		t.Errorf("the driver has ports: %v", csi.in.Ports)
	}
	for _, p := range []*corev1.Probe{csi.in.LivenessProbe, csi.in.ReadinessProbe} {
		if p.TimeoutSeconds < 5 { // `ballast probe` itself waits that long
			t.Errorf("a probe that starts a process is given %d s", p.TimeoutSeconds)
		}
	}
	root := corev1.SecurityContext{Privileged: new(true), RunAsUser: new(int64), RunAsGroup: new(int64), ReadOnlyRootFilesystem: new(true)}
	if !reflect.DeepEqual(*csi.in.SecurityContext, root) || pod.SecurityContext != nil {
		t.Errorf("the driver runs with %+v, in a pod with %+v", csi.in.SecurityContext, pod.SecurityContext)
	}
	if enforced := m.namespace.Labels["pod-security.kubernetes.io/enforce"]; enforced != "privileged" {
		t.Errorf("the namespace takes %q pods, and the driver's is privileged", enforced)
	}
}

func TestOnlyTheAgentMayDoAnythingAtTheAPIServer(t *testing.T) {
	m := readManifests(t)
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
	if !reflect.DeepEqual(m.role.Rules, want) {
		t.Errorf("the agent may %v; agent/kube needs %v", m.role.Rules, want)
	}
	account := m.agent.Spec.Template.Spec.ServiceAccountName
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: m.namespace.Name}}
	if !reflect.DeepEqual(m.binding.Subjects, subjects) || m.binding.RoleRef != (rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: m.role.Name}) {
		t.Errorf("%v is bound to %v; want %v", m.binding.RoleRef, m.binding.Subjects, subjects)
	}
	if _, ok := m.accounts[account]; !ok || account == m.csi.Spec.Template.Spec.ServiceAccountName {
		t.Errorf("the agent's account is %s, of %v", account, m.accounts)
	}
}

// TestPoliciesHoldTheAgentsAccount: what they let through, e2e/cluster asks the API server.
func TestPoliciesHoldTheAgentsAccount(t *testing.T) {
	m := readManifests(t)
	account := "system:serviceaccount:" + m.namespace.Name + ":" + m.agent.Spec.Template.Spec.ServiceAccountName
	for name, resources := range map[string][]string{"ballast-agent-events": {"events"}, "ballast-agent-nodes": {"nodes", "nodes/*"}} {
		p := m.policies[name]
		if p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy != admissionv1.Fail {
			t.Errorf("%s: what it cannot tell it lets through", name)
		}
		if c := p.Spec.MatchConditions; len(c) != 1 || c[0].Expression != fmt.Sprintf("request.userInfo.username == '%s'", account) {
			t.Errorf("%s is about %v; want %s", name, c, account)
		}
		if r := p.Spec.MatchConstraints.ResourceRules; len(r) != 1 || !slices.Equal(r[0].APIGroups, []string{""}) || !slices.Equal(r[0].Resources, resources) {
			t.Errorf("%s holds %v; want %v", name, r, resources)
		}
		if b := m.bound[name].Spec; !slices.Equal(b.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) || b.MatchResources != nil {
			t.Errorf("%s is bound with %+v", name, b)
		}
	}
}

func TestCSIDriverAsksKubeletForWhatTheDriverNeeds(t *testing.T) {
	driver := readManifests(t).driver
	never, always, none := new(bool), new(bool), storagev1.NoneFSGroupPolicy
	*always = true
	want := storagev1.CSIDriverSpec{
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral, storagev1.VolumeLifecyclePersistent},
		AttachRequired:       never,
		PodInfoOnMount:       always,
		FSGroupPolicy:        &none,
		SELinuxMount:         never,
		RequiresRepublish:    never,
		StorageCapacity:      never,
	}
	if !reflect.DeepEqual(driver.Spec, want) {
		t.Errorf("the CSIDriver says %+v; want %+v", driver.Spec, want)
	}
	if driver.Labels["security.openshift.io/csi-ephemeral-volume-profile"] != "restricted" {
		t.Errorf("OpenShift refuses its volumes in ordinary namespaces: %v", driver.Labels)
	}
}
