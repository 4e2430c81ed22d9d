package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// askTimeout bounds one request, so that a dead connection is an error that can be
// tried again.
const askTimeout = 10 * time.Second

// ErrGone: the pod has been deleted; another one may have its name.
var ErrGone = errors.New("the pod is gone")

// UserNamespace says whether p has a user namespace of its own (spec.hostUsers is
// false), which cannot change while the pod lives. A pod that the watch has not
// shown yet is fetched. The error matches ErrGone when there is no such pod; any
// other one says that the API server did not tell, and may pass.
func (k *Kube) UserNamespace(ctx context.Context, p Pod) (bool, error) {
	if !p.complete() {
		return false, fmt.Errorf("user namespace of pod %q: namespace, name and uid are needed (uid %q)", p, p.UID)
	}
	pod, err := corelisters.NewPodLister(k.pods.GetIndexer()).Pods(p.Namespace).Get(p.Name)
	// Another uid in the cache may be the pod's predecessor, and the cache late.
	if err != nil || string(pod.UID) != p.UID {
		if pod, err = k.fetch(ctx, p); err != nil {
			return false, fmt.Errorf("user namespace of pod %s: %w", p, err)
		}
	}
	return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers, nil
}

// fetch asks the API server, which answers with what is true now.
func (k *Kube) fetch(ctx context.Context, p Pod) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	pod, err := k.client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	case err != nil:
		return nil, fmt.Errorf("ask the API server: %w", err)
	case string(pod.UID) != p.UID:
		return nil, fmt.Errorf("%w: uid %s is asked for, and the name is now uid %s's", ErrGone, p.UID, pod.UID)
	}
	return pod, nil
}

// trim keeps of a pod what is asked here, and the resourceVersion, by which the
// informer tells a change from a repetition.
func trim(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         pod.Namespace,
			Name:              pod.Name,
			UID:               pod.UID,
			ResourceVersion:   pod.ResourceVersion,
			DeletionTimestamp: pod.DeletionTimestamp,
		},
		Spec: corev1.PodSpec{
			NodeName:    pod.Spec.NodeName,
			HostNetwork: pod.Spec.HostNetwork,
			HostUsers:   pod.Spec.HostUsers,
		},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, PodIPs: pod.Status.PodIPs},
	}, nil
}

// watchFailed logs a failed list or watch; the informer tries again, within 30 s.
func (k *Kube) watchFailed(_ context.Context, _ *cache.Reflector, err error) {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return // the ordinary end of a watch
	}
	k.log.Warn("watching this node's pods failed, trying again", zap.Error(err))
}
