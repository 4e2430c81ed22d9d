// Package node owns a real Kubernetes on this machine: it builds the programs from
// the Go module proxy, starts a control plane and a node machine in namespaces of
// their own, and ends them without a trace. Nothing of Kubernetes is imitated. It
// knows nothing of Ballast.
//
// A test binary runs three times (Main):
//
//   - outside, with the network of this machine: it builds what is needed, makes the
//     work directory, runs itself again inside, and looks afterwards for anything left;
//   - inside, in mount, PID, network, IPC and UTS namespaces of its own: here are the
//     tests, the control plane, and a bridge with the addresses below;
//   - as a node machine's init, in further namespaces: containerd, kubelet and the
//     pods. Killing it is a power cut: its processes and mounts are gone, its disk
//     stays.
//
// The kernel ends whatever is in a PID namespace with the namespace's first process,
// and takes the mounts, the interfaces and their rules with the last. So nothing
// survives a failed, an interrupted or a killed run but the work directory and the
// cgroups that containers were in, which have one name, and which the run, or else
// the next one, removes.
//
// The addresses exist in the inside network namespace only:
//
//	192.168.177.1     the control plane and whatever the tests serve, on the bridge
//	192.168.177.2     the node machine
//	10.96.0.1:443     the service kubernetes: an address of the bridge, where the API
//	                  server listens itself, so neither kube-proxy nor a rule is needed
//	10.244.0.0/24     pods
package node

// Addresses (see the package's comment).
const (
	HostIP    = "192.168.177.1"
	machineIP = "192.168.177.2"
	apiIP     = "10.96.0.1"
	podCIDR   = "10.244.0.0/24"
	services  = "10.96.0.0/24"
)
