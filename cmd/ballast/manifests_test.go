package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"sigs.k8s.io/yaml"

	"github.com/ballast-csi/ballast/fetcher/hub"
)

const manifestsDir = "../../deploy/manifests"

// manifests are what is deployed, as deploy/manifests says it.
type manifests struct {
	agent, csi appsv1.DaemonSet
	driver     storagev1.CSIDriver
	namespace  corev1.Namespace
	quota      corev1.ResourceQuota
	accounts   map[string]corev1.ServiceAccount
	role       rbacv1.ClusterRole
	binding    rbacv1.ClusterRoleBinding
	policies   map[string]admissionv1.ValidatingAdmissionPolicy
	bound      map[string]admissionv1.ValidatingAdmissionPolicyBinding // by its policy
}

// kustomization is what kustomization.yaml may say.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Resources  []string `json:"resources"`
	Images     []struct {
		Name    string `json:"name"`
		NewName string `json:"newName"`
		NewTag  string `json:"newTag"`
	} `json:"images"`
}

func readKustomization(t *testing.T) (k kustomization) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(manifestsDir, "kustomization.yaml"))
	must(t, err)
	must(t, yaml.UnmarshalStrict(text, &k))
	return k
}

// readManifests reads every object that the kustomization lists, and refuses an unknown
// field, as the API server would not.
func readManifests(t *testing.T) *manifests {
	t.Helper()
	m := &manifests{
		accounts: map[string]corev1.ServiceAccount{},
		policies: map[string]admissionv1.ValidatingAdmissionPolicy{},
		bound:    map[string]admissionv1.ValidatingAdmissionPolicyBinding{},
	}
	for _, name := range readKustomization(t).Resources {
		text, err := os.ReadFile(filepath.Join(manifestsDir, name))
		must(t, err)
		for object := range bytes.SplitSeq(text, []byte("\n---\n")) {
			if err := m.add(object); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	return m
}

func (m *manifests) add(text []byte) error {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal(text, &head); err != nil {
		return err
	}
	switch head.APIVersion + " " + head.Kind + " " + head.Metadata.Name {
	case "apps/v1 DaemonSet ballast-agent":
		return yaml.UnmarshalStrict(text, &m.agent)
	case "apps/v1 DaemonSet ballast-csi":
		return yaml.UnmarshalStrict(text, &m.csi)
	case "storage.k8s.io/v1 CSIDriver csi.ballast.dev":
		return yaml.UnmarshalStrict(text, &m.driver)
	case "v1 Namespace ballast":
		return yaml.UnmarshalStrict(text, &m.namespace)
	case "v1 ResourceQuota ballast-critical":
		return yaml.UnmarshalStrict(text, &m.quota)
	case "rbac.authorization.k8s.io/v1 ClusterRole ballast-agent":
		return yaml.UnmarshalStrict(text, &m.role)
	case "rbac.authorization.k8s.io/v1 ClusterRoleBinding ballast-agent":
		return yaml.UnmarshalStrict(text, &m.binding)
	case "v1 ServiceAccount ballast-agent", "v1 ServiceAccount ballast-csi":
		var a corev1.ServiceAccount
		err := yaml.UnmarshalStrict(text, &a)
		m.accounts[a.Name] = a
		return err
	case "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy ballast-agent-events", "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy ballast-agent-nodes":
		var p admissionv1.ValidatingAdmissionPolicy
		err := yaml.UnmarshalStrict(text, &p)
		m.policies[p.Name] = p
		return err
	case "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding ballast-agent-events", "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding ballast-agent-nodes":
		var b admissionv1.ValidatingAdmissionPolicyBinding
		err := yaml.UnmarshalStrict(text, &b)
		m.bound[b.Spec.PolicyName] = b
		return err
	}
	return fmt.Errorf("%s %s %s is not among what is deployed", head.APIVersion, head.Kind, head.Metadata.Name)
}

// started is one start of ballast that a manifest asks for: a container's, or a probe's.
type started struct {
	t      *testing.T
	pod    corev1.PodSpec
	in     corev1.Container
	name   string
	lookup func(flag string) string
}

// start parses args with the command that they name, which must take them.
func start(t *testing.T, pod corev1.PodSpec, in corev1.Container, args []string) started {
	t.Helper()
	for _, e := range in.Env { // what defaults are made of
		if e.Name == "NODE_NAME" && e.ValueFrom != nil && e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == "spec.nodeName" {
			t.Setenv(e.Name, "the-node")
		} else if e.Value != "" {
			t.Setenv(e.Name, e.Value)
		} else {
			t.Errorf("container %s: what is %s?", in.Name, e.Name)
		}
	}
	cmd, rest, err := root().Find(args)
	must(t, err)
	if cmd.Parent() == nil {
		t.Fatalf("container %s: %q names no subcommand", in.Name, args)
	}
	must(t, cmd.ParseFlags(rest))
	must(t, cmd.ValidateArgs(cmd.Flags().Args()))
	return started{t, pod, in, cmd.Name(), func(flag string) string {
		t.Helper()
		f := cmd.Flags().Lookup(flag)
		if f == nil {
			t.Fatalf("ballast %s has no flag --%s", cmd.Name(), flag)
		}
		return f.Value.String()
	}}
}

// onNode is the path on the node of what the flag names in the container.
func (s started) onNode(flag string) string {
	s.t.Helper()
	return s.resolve(s.lookup(flag))
}

func (s started) resolve(path string) string {
	s.t.Helper()
	for _, mount := range s.in.VolumeMounts {
		below, ok := strings.CutPrefix(path, mount.MountPath)
		if !ok || below != "" && below[0] != '/' {
			continue
		}
		for _, v := range s.pod.Volumes {
			if v.Name == mount.Name && v.HostPath != nil {
				return v.HostPath.Path + below
			}
		}
	}
	s.t.Fatalf("ballast %s: %s is on no volume of container %s", s.name, path, s.in.Name)
	return ""
}

// processes are all that the two DaemonSets start.
func (m *manifests) processes(t *testing.T) (prepare, agent, csi started, probes []started) {
	t.Helper()
	a, c := m.agent.Spec.Template.Spec, m.csi.Spec.Template.Spec
	if len(a.InitContainers) != 1 || len(a.Containers) != 1 || len(c.InitContainers) != 0 || len(c.Containers) != 1 {
		t.Fatal("want one init container and a container in the agent's pod, and one container in the driver's")
	}
	prepare = start(t, a, a.InitContainers[0], a.InitContainers[0].Args)
	agent = start(t, a, a.Containers[0], a.Containers[0].Args)
	csi = start(t, c, c.Containers[0], c.Containers[0].Args)
	if names := []string{prepare.name, agent.name, csi.name}; !slices.Equal(names, []string{"prepare", "agent", "csi"}) {
		t.Fatalf("the containers run ballast %v", names)
	}
	for _, p := range []*corev1.Probe{csi.in.LivenessProbe, csi.in.ReadinessProbe} {
		if p == nil || p.Exec == nil || len(p.Exec.Command) < 2 || p.Exec.Command[0] != "/ballast" { // where the image has it
			t.Fatalf("the driver has no port, so its probes must run /ballast: %v", p)
		}
		probes = append(probes, start(t, c, csi.in, p.Exec.Command[1:]))
	}
	return prepare, agent, csi, probes
}

func TestManifestsNameTheSamePathsSocketsAndUsers(t *testing.T) {
	m := readManifests(t)
	prepare, agent, csi, probes := m.processes(t)
	same := func(what string, values ...string) {
		t.Helper()
		if values[0] == "" || slices.ContainsFunc(values, func(v string) bool { return v != values[0] }) {
			t.Errorf("%s differs: %q", what, values)
		}
	}
	same("the cache directory", agent.onNode("cache-dir"), prepare.onNode("cache-dir"), csi.onNode("cache-dir"))
	same("the agent's socket", agent.onNode("socket"), prepare.onNode("socket"), csi.onNode("agent-socket"))
	same("the driver's HTTP socket", csi.onNode("http-socket"), agent.onNode("csi-http-socket"), probes[0].onNode("socket"), probes[1].onNode("socket"))
	same("the driver's socket for kubelet", csi.onNode("csi-socket"), csi.lookup("kubelet-csi-socket"))
	same("the driver's name", m.driver.Name, csi.lookup("driver"), filepath.Base(filepath.Dir(csi.lookup("kubelet-csi-socket"))))
	same("the node's name", "the-node", agent.lookup("node-name"), csi.lookup("node-id"))
	user := m.agent.Spec.Template.Spec.SecurityContext
	same("the agent's user", fmt.Sprint(*user.RunAsUser), fmt.Sprint(*user.RunAsGroup), prepare.lookup("agent-uid"), csi.lookup("agent-uid"))
	same("the driver's user", fmt.Sprint(*csi.in.SecurityContext.RunAsUser), agent.lookup("csi-uid"))
	if got := agent.lookup("http-address"); got != fmt.Sprintf(":%d", agent.in.Ports[0].ContainerPort) {
		t.Errorf("the agent serves HTTP on %s, and its port is %d", got, agent.in.Ports[0].ContainerPort)
	}
	if got := agent.lookup("hub-endpoint"); got != hub.DefaultEndpoint {
		t.Errorf("the Hub is at %s", got)
	}
	if agent.lookup("kube") != "true" {
		t.Error("the agent does not watch pods: deleted ones would hang")
	}

	kubelet := strings.TrimSuffix(csi.onNode("registration-dir"), "/plugins_registry")
	if want := kubelet + "/plugins/" + m.driver.Name + "/csi.sock"; csi.lookup("kubelet-csi-socket") != want {
		t.Errorf("kubelet is told %s; want %s", csi.lookup("kubelet-csi-socket"), want)
	}
	if pods := kubelet + "/pods/uid/volumes/kubernetes.io~csi/model/mount"; csi.resolve(pods) != pods {
		t.Errorf("the driver sees %s elsewhere, as %s", pods, csi.resolve(pods))
	}
}

func TestReadmesPodIsOne(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	must(t, err)
	_, block, ok := strings.Cut(string(text), "```yaml\napiVersion: v1\nkind: Pod\n")
	block, _, closed := strings.Cut(block, "```\n")
	if !ok || !closed {
		t.Fatal("the README shows no pod")
	}
	var pod corev1.Pod
	must(t, yaml.UnmarshalStrict([]byte(block), &pod))
	v := pod.Spec.Volumes[0]
	if v.CSI == nil || v.CSI.Driver != readManifests(t).driver.Name || v.CSI.ReadOnly == nil || !*v.CSI.ReadOnly ||
		v.Name != pod.Spec.Containers[0].VolumeMounts[0].Name {
		t.Errorf("the README's pod has the volume %+v", v)
	}
}
