package kube

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// byAddress is the name of the watch's index from an address to the pods that have it.
const byAddress = "address"

// PodAt returns the pod of this node whose address it is, as the kubelet reports it in
// status.podIPs, and false unless there is exactly one. It says nothing of a pod with
// hostNetwork, since every process of the node has its address, nor of one that has
// ended or is being deleted, since its address may be another's by now: the kubelet
// reports the end of a pod after the network has taken its address back. What it says is
// as late as the watch; before Run has listed the pods there are none.
func (k *Kube) PodAt(addr netip.Addr) (Pod, bool) {
	pods, err := k.pods.GetTypedIndexer().ByTypedIndex(byAddress, addressKey(addr))
	if err != nil || len(pods) != 1 {
		return Pod{}, false // an index that is not there is the only error
	}
	return Pod{pods[0].Namespace, pods[0].Name, string(pods[0].UID)}, true
}

// addressesOn returns the index function of a node's pods by address.
func addressesOn(node string) cache.TypedIndexFunc[*corev1.Pod] {
	return func(pod *corev1.Pod) ([]string, error) {
		if pod.Spec.NodeName != node || pod.Spec.HostNetwork || pod.DeletionTimestamp != nil ||
			pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return nil, nil
		}
		var keys []string
		for _, ip := range pod.Status.PodIPs {
			if addr, err := netip.ParseAddr(ip.IP); err == nil {
				keys = append(keys, addressKey(addr))
			}
		}
		return keys, nil
	}
}

// addressKey writes the same address the same way: an IPv4 address that came over an
// IPv6 socket too.
func addressKey(addr netip.Addr) string { return addr.Unmap().WithZone("").String() }
