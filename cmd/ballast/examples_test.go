package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

const examplesDir = "../../deploy/examples"

// example is one of deploy/examples, with its patch of the agent's DaemonSet if it has one.
type example struct {
	config string // config.yaml of the ConfigMap ballast
	patch  *appsv1.DaemonSet
	serve  *appsv1.Deployment
	claims []corev1.PersistentVolumeClaim
}

// readExamples reads every file there, and refuses an unknown field.
func readExamples(t *testing.T) map[string]*example {
	t.Helper()
	entries, err := os.ReadDir(examplesDir)
	must(t, err)
	all := map[string]*example{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(examplesDir, e.Name()))
		must(t, err)
		name, isPatch := strings.CutSuffix(e.Name(), ".patch.yaml")
		name = strings.TrimSuffix(name, ".yaml")
		if all[name] == nil {
			all[name] = &example{}
		}
		for object := range bytes.SplitSeq(text, []byte("\n---\n")) {
			if err := all[name].add(object, isPatch); err != nil {
				t.Fatalf("%s: %v", e.Name(), err)
			}
		}
	}
	return all
}

func (e *example) add(text []byte, isPatch bool) error {
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(text, &head); err != nil {
		return err
	}
	switch kind := head.APIVersion + " " + head.Kind; {
	case isPatch && kind == "apps/v1 DaemonSet":
		e.patch = &appsv1.DaemonSet{}
		return yaml.UnmarshalStrict(text, e.patch)
	case isPatch:
		return fmt.Errorf("%s is no patch of a DaemonSet", kind)
	case kind == "v1 ConfigMap":
		var m corev1.ConfigMap
		err := yaml.UnmarshalStrict(text, &m)
		if m.Name != "ballast" || m.Namespace != "ballast" || len(m.Data) != 1 {
			return fmt.Errorf("ConfigMap %s/%s with %d keys", m.Namespace, m.Name, len(m.Data))
		}
		e.config = m.Data["config.yaml"]
		return err
	case kind == "apps/v1 Deployment":
		e.serve = &appsv1.Deployment{}
		return yaml.UnmarshalStrict(text, e.serve)
	case kind == "v1 PersistentVolumeClaim":
		e.claims = append(e.claims, corev1.PersistentVolumeClaim{})
		return yaml.UnmarshalStrict(text, &e.claims[len(e.claims)-1])
	case kind == "v1 PersistentVolume":
		return yaml.UnmarshalStrict(text, &corev1.PersistentVolume{})
	case kind == "v1 Service":
		return yaml.UnmarshalStrict(text, &corev1.Service{})
	case kind == "networking.k8s.io/v1 NetworkPolicy":
		return yaml.UnmarshalStrict(text, &networkingv1.NetworkPolicy{})
	default:
		return fmt.Errorf("what is %s?", kind)
	}
}

// mounted reports whether path is on a volume of the agent's, or of a patch of it.
func mounted(path string, pods ...corev1.PodSpec) bool {
	return slices.ContainsFunc(pods, func(p corev1.PodSpec) bool {
		return slices.ContainsFunc(p.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
			return (path == m.MountPath || strings.HasPrefix(path, m.MountPath+"/")) &&
				slices.ContainsFunc(p.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		})
	})
}

func TestExamplesAreWhatAnAgentTakes(t *testing.T) {
	clean(t)
	agent := readManifests(t).agent.Spec.Template.Spec
	all := readExamples(t)
	if len(all) != 4 {
		t.Fatalf("there are %d examples", len(all))
	}
	for name, e := range all {
		c, err := load(t, e.config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		pods := []corev1.PodSpec{agent}
		if name == "air-gapped" { // as its comment says
			pods = append(pods, all["shared-pvc"].patch.Spec.Template.Spec)
		}
		if e.patch != nil {
			if e.patch.Name != "ballast-agent" || e.patch.Namespace != "ballast" || e.patch.Spec.Template.Spec.Containers[0].Name != agent.Containers[0].Name {
				t.Errorf("%s: its patch is of another object", name)
			}
			pods = append(pods, e.patch.Spec.Template.Spec)
		}
		paths := []string{c.Manifests.Dir}
		for _, s := range c.Sources {
			if s.PVC != nil {
				paths = append(paths, s.PVC.Dir)
			}
			if s.ModelExpress != nil {
				paths = append(paths, s.ModelExpress.TokenFile)
			}
		}
		for _, path := range paths {
			if path != "" && !mounted(path, pods...) {
				t.Errorf("%s: %s is on no volume of the agent's", name, path)
			}
		}
	}
	for _, claim := range all["shared-pvc"].claims {
		if claim.Name != all["shared-pvc"].patch.Spec.Template.Spec.Volumes[0].PersistentVolumeClaim.ClaimName || claim.Namespace != "ballast" {
			t.Errorf("the claim is %s/%s", claim.Namespace, claim.Name)
		}
	}
	pod := all["serve-rwo"].serve.Spec.Template.Spec
	served := start(t, pod, pod.Containers[0], pod.Containers[0].Args)
	if served.name != "serve" || !mounted(served.lookup("cache"), pod) || served.lookup("address") != fmt.Sprintf(":%d", pod.Containers[0].Ports[0].ContainerPort) {
		t.Errorf("it runs ballast %s on %s at %s", served.name, served.lookup("cache"), served.lookup("address"))
	}
}

// Who applies the manifests has made no ConfigMap, and needs none.
func TestTheAgentNeedsNoConfigMap(t *testing.T) {
	pod := readManifests(t).agent.Spec.Template.Spec
	agent := start(t, pod, pod.Containers[0], pod.Containers[0].Args)
	file, optional := strings.CutPrefix(agent.lookup("config"), "-")
	if !optional || !mounted(file, pod) {
		t.Errorf("its --config is %s", agent.lookup("config"))
	}
	for _, v := range pod.Volumes {
		if v.ConfigMap != nil && (v.ConfigMap.Optional == nil || !*v.ConfigMap.Optional) {
			t.Errorf("the volume %s must be there", v.Name)
		}
	}
}
