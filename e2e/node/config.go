package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// nodeServices are what the machine's init keeps running, by name, with arguments.
func nodeServices(work string) map[string][]string {
	etc := filepath.Join(work, "etc")
	return map[string][]string{
		"containerd": {nodeProgram(work, "containerd"), "--config", filepath.Join(etc, "containerd.toml")},
		"kubelet": {nodeProgram(work, "kubernetes"), "kubelet", "--config", filepath.Join(etc, "kubelet.yaml"),
			"--kubeconfig", filepath.Join(etc, "node.kubeconfig"), "--hostname-override", NodeName, "--node-ip", machineIP},
	}
}

// nodeProgram is the path of one of the machine's programs.
func nodeProgram(work, name string) string { return filepath.Join(work, "bin", name) }

// writeNode writes what the machine's programs are and how they are configured.
func writeNode(work string, tools Tools, sandbox string) error {
	bin, etc := filepath.Join(work, "bin"), filepath.Join(work, "etc")
	cni := filepath.Join(etc, "cni")
	for _, d := range []string{bin, cni} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, program := range []string{tools.kubernetes, tools.runc,
		filepath.Join(tools.containerd, "containerd"), filepath.Join(tools.containerd, "containerd-shim-runc-v2")} {
		if err := os.Symlink(program, filepath.Join(bin, filepath.Base(program))); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for path, content := range map[string]string{
		filepath.Join(etc, "containerd.toml"):  fmt.Sprintf(containerdConfig, containerdSocket, sandbox, tools.cni, cni, nodeProgram(work, "runc")),
		filepath.Join(etc, "kubelet.yaml"):     fmt.Sprintf(kubeletConfig, containerdSocket),
		filepath.Join(cni, "10-pods.conflist"): cniConfig,
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const containerdConfig = `version = 3
[grpc]
address = %q
[plugins.'io.containerd.internal.v1.opt']
path = '/var/lib/containerd/opt'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = %q
[plugins.'io.containerd.cri.v1.runtime']
disable_apparmor = true
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [%q]
conf_dir = %q
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = %q
`

// kubeletConfig is a plain node's, but that version 1 of cgroups will do, and that a
// full disk of this machine is not the node's concern.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
readOnlyPort: 0
evictionHard: {nodefs.available: 0%%, imagefs.available: 0%%}
containerRuntimeEndpoint: unix://%s
volumePluginDir: /var/lib/kubelet/volume-plugins
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
`

const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge", "bridge": "cni0", "isGateway": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "` + podCIDR + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}
`
