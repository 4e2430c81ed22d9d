package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// lives keeps what the API server told of each pod, and when it did: pods' own times
// are whole seconds.
type lives struct {
	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, when there is news
	pods    map[types.UID]*life
}

// life is one pod's. A zero time: not yet.
type life struct {
	pod       *corev1.Pod // as last seen
	scheduled time.Time
	running   time.Time // all its containers, for the first time
	gone      time.Time
}

// watchLives watches until the process ends; ctx ends the wait for the API server.
func watchLives(ctx context.Context, client kubernetes.Interface) (*lives, error) {
	l := &lives{changed: make(chan struct{}), pods: map[types.UID]*life{}}
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { l.see(obj.(*corev1.Pod), false) },
		UpdateFunc: func(_, obj any) { l.see(obj.(*corev1.Pod), false) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			l.see(obj.(*corev1.Pod), true)
		},
	}); err != nil {
		return nil, err
	}
	factory.Start(make(chan struct{}))
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil, errors.New("the API server does not list pods")
	}
	return l, nil
}

func (l *lives) see(pod *corev1.Pod, gone bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.pods[pod.UID]
	if one == nil {
		one = &life{}
		l.pods[pod.UID] = one
	}
	one.pod = pod
	mark := func(at *time.Time, happened bool) {
		if happened && at.IsZero() {
			*at = now
		}
	}
	mark(&one.scheduled, pod.Spec.NodeName != "")
	mark(&one.running, pod.Status.Phase == corev1.PodRunning)
	mark(&one.gone, gone)
	close(l.changed)
	l.changed = make(chan struct{})
}

// wait returns the pod's life once it is as wanted, or fails the test after limit.
func (l *lives) wait(t *testing.T, uid types.UID, limit time.Duration, what string, wanted func(life) bool) life {
	t.Helper()
	one, err := l.await(t.Context(), uid, limit, wanted)
	if err != nil {
		name := string(uid)
		if one.pod != nil {
			name = one.pod.Namespace + "/" + one.pod.Name
		}
		t.Fatalf("pod %s is not %s within %s: %v", name, what, limit, err)
	}
	return one
}

func (l *lives) await(ctx context.Context, uid types.UID, limit time.Duration, wanted func(life) bool) (life, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(interrupted, cancel)()
	for {
		one, changed := l.get(uid)
		if one.pod != nil && wanted(one) {
			return one, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return one, ctx.Err()
		}
	}
}

// get is the pod's life now, and a channel that closes with the next news of any.
func (l *lives) get(uid types.UID) (life, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.pods[uid]; one != nil {
		return *one, l.changed
	}
	return life{}, l.changed
}
