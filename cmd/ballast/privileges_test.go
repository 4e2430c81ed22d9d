package main

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
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
		"agent": m.agent.Namespace, "csi": m.csi.Namespace, "binding": m.binding.Subjects[0].Namespace,
		"agent's account": m.accounts["ballast-agent"].Namespace, "driver's account": m.accounts["ballast-csi"].Namespace,
	} {
		if namespace != m.namespace.Name {
			t.Errorf("%s: namespace %q; want %q", what, namespace, m.namespace.Name)
		}
	}
}

func TestDaemonSetsRunOnEveryNodeOneOfEach(t *testing.T) {
	m := readManifests(t)
	for _, d := range []appsv1.DaemonSet{m.agent, m.csi} {
		pod := d.Spec.Template.Spec
		if !reflect.DeepEqual(pod.Tolerations, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}) {
			t.Errorf("%s: tolerations %v; GPU nodes are tainted", d.Name, pod.Tolerations)
		}
		if !reflect.DeepEqual(pod.NodeSelector, map[string]string{"kubernetes.io/os": "linux"}) || pod.PriorityClassName != "system-node-critical" {
			t.Errorf("%s: node selector %v, priority %q", d.Name, pod.NodeSelector, pod.PriorityClassName)
		}
		if !reflect.DeepEqual(d.Spec.Selector.MatchLabels, d.Spec.Template.Labels) {
			t.Errorf("%s selects %v and makes %v", d.Name, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels)
		}
		// Two agents cannot hold one cache, and kubelet refuses a second driver.
		if roll := d.Spec.UpdateStrategy.RollingUpdate; roll == nil || roll.MaxSurge == nil || roll.MaxSurge.IntValue() != 0 || roll.MaxSurge.String() != "0" {
			t.Errorf("%s is rolled as %v", d.Name, roll)
		}
		if pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.TerminationGracePeriodSeconds == nil {
			t.Errorf("%s: host namespaces, or no grace period: %+v", d.Name, pod)
		}
		used := map[string]bool{}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			for _, mount := range c.VolumeMounts {
				used[mount.Name] = true
			}
			if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
				t.Errorf("%s: why it ended is not shown in the pod's status", c.Name)
			}
		}
		for _, v := range pod.Volumes {
			if v.HostPath == nil || v.HostPath.Type == nil || !used[v.Name] {
				t.Errorf("%s: volume %s is no hostPath, has no type, or is not used", d.Name, v.Name)
			}
		}
	}
}

func TestAgentHasNoPrivileges(t *testing.T) {
	m := readManifests(t)
	prepare, agent, _, _ := m.processes(t)
	user := m.agent.Spec.Template.Spec.SecurityContext
	if *user.RunAsUser < 65536 || !*user.RunAsNonRoot || user.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the agent's pod runs as %+v", user)
	}
	never, always := new(bool), new(bool)
	*always = true
	none := corev1.SecurityContext{
		AllowPrivilegeEscalation: never, ReadOnlyRootFilesystem: always,
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
	root.RunAsUser, root.RunAsGroup, root.RunAsNonRoot = new(int64), new(int64), never
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
	if c := csi.in.SecurityContext; !*c.Privileged || !*c.ReadOnlyRootFilesystem {
		t.Errorf("the driver runs with %+v", c)
	}
	if enforced := m.namespace.Labels["pod-security.kubernetes.io/enforce"]; enforced != "privileged" {
		t.Errorf("the namespace takes %q pods, and the driver's is privileged", enforced)
	}
	for _, v := range pod.Volumes { // the sockets' directories and kubelet's, not the node's
		if path := v.HostPath.Path; strings.Count(path, "/") < 2 {
			t.Errorf("the driver sees %s", path)
		}
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
