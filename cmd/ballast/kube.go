package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/kube"
)

// podWatch lets the agent ask agent/kube about pods: neither knows the other.
type podWatch struct{ kube *kube.Kube }

func (p podWatch) UserNamespace(ctx context.Context, pod agent.Pod) (bool, error) {
	own, err := p.kube.UserNamespace(ctx, kube.Pod(pod))
	if errors.Is(err, kube.ErrGone) {
		err = fmt.Errorf("%w: %w", agent.ErrPodGone, err)
	}
	return own, err
}

func (p podWatch) IsDeleting(uid string) bool { return p.kube.IsDeleting(uid) }

func (p podWatch) Tell(pod agent.Pod, reason, message string, warning bool) {
	p.kube.Tell(kube.Pod(pod), reason, message, warning)
}

// admit is hubapi's admission: this node's pods, by their addresses.
func (p podWatch) admit(from netip.Addr) (namespace string, ok bool) {
	pod, ok := p.kube.PodAt(from)
	return pod.Namespace, ok
}

// watchPods connects to the API server of the cluster this process runs in.
func watchPods(node string, deleting func(uid string), log *zap.Logger) (*kube.Kube, error) {
	client, err := kube.InCluster(version)
	if err != nil {
		return nil, err
	}
	return kube.New(kube.Config{Client: client, Node: node, Log: log, Deleting: deleting})
}
