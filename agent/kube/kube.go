package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// rememberGone is how long a uid is known after its pod is gone: longer than any
// call waits (kubelet's last 2 minutes).
const rememberGone = 10 * time.Minute

// Pod names one pod: its uid tells it from others of the same name.
type Pod struct{ Namespace, Name, UID string }

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// complete says whether p names a pod at all (the command line has none).
func (p Pod) complete() bool { return p.Namespace != "" && p.Name != "" && p.UID != "" }

// Config is what a Kube is made of; all of it is needed.
type Config struct {
	Client kubernetes.Interface
	Node   string // this node's name, as in a pod's spec.nodeName
	Log    *zap.Logger
	// Deleting is called once for each pod that gets a deletionTimestamp, has one at
	// the start, or is gone without; one call at a time. It must not block.
	Deleting func(uid string)
}

// Kube watches this node's pods and tells events. Make one with New.
type Kube struct {
	client   kubernetes.Interface
	log      *zap.Logger
	onDelete func(uid string)
	pods     coreinformers.PodIndexInformer
	teller   *teller

	mu       sync.Mutex           // guards deleting
	deleting map[string]time.Time // uid → since when it is gone; zero while it is there
}

// New checks cfg and makes a Kube; it starts nothing.
func New(cfg Config) (*Kube, error) {
	if cfg.Client == nil || cfg.Node == "" || cfg.Log == nil || cfg.Deleting == nil {
		return nil, errors.New("kube: Client, Node, Log and Deleting are needed")
	}
	k := &Kube{
		client:   cfg.Client,
		log:      cfg.Log,
		onDelete: cfg.Deleting,
		teller:   newTeller(cfg.Client.CoreV1(), cfg.Node, cfg.Log),
		deleting: map[string]time.Time{},
	}
	onNode := fields.OneTermEqualSelector("spec.nodeName", cfg.Node).String()
	indexers := coreinformers.PodIndexers{byAddress: addressesOn(cfg.Node)}
	k.pods = coreinformers.NewTypedFilteredPodInformer(cfg.Client, metav1.NamespaceAll, 0, indexers,
		func(o *metav1.ListOptions) { o.FieldSelector = onNode })
	if err := k.pods.SetTransform(trim); err != nil {
		return nil, fmt.Errorf("kube: pods of node %s: %w", cfg.Node, err)
	}
	if err := k.pods.SetWatchErrorHandlerWithContext(k.watchFailed); err != nil {
		return nil, fmt.Errorf("kube: pods of node %s: %w", cfg.Node, err)
	}
	_, err := k.pods.AddTypedEventHandler(coreinformers.PodHandlerFuncs{
		AddFunc: k.saw,
		UpdateFunc: func(was, is *corev1.Pod) {
			if was.UID != is.UID { // a list after a gap: another pod has taken the name
				k.gone(was)
			}
			k.saw(is)
		},
		DeleteFunc: func(d coreinformers.DeletedPod) {
			if d.OptionalObj != nil {
				k.gone(d.OptionalObj)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("kube: pods of node %s: %w", cfg.Node, err)
	}
	return k, nil
}

// Run watches and tells until ctx ends; what was told before that is still sent,
// within a second. It can run once. UserNamespace and Tell work before it runs;
// what is told then waits for it.
func (k *Kube) Run(ctx context.Context) error {
	// client-go says little at its default verbosity, and what it says is wrong.
	ctx = klog.NewContext(ctx, funcr.New(func(name, said string) {
		k.log.Warn("kubernetes client", zap.String("part", name), zap.String("said", said))
	}, funcr.Options{}))
	var work sync.WaitGroup
	work.Go(func() { k.teller.run(ctx) })
	k.pods.RunWithContext(ctx)
	work.Wait()
	return nil
}

// Tell puts an event on p that says message, or updates the last one of the same
// reason and type, at most once a minute for each: what is told in between is
// counted and dropped, so whoever tells of something that lasts tells it again.
// reason is one CamelCase word. A message is cut at 1024 bytes. It never blocks.
func (k *Kube) Tell(p Pod, reason, message string, warning bool) {
	if p.complete() {
		k.teller.tell(p, reason, message, warning)
	}
}

// IsDeleting says whether the pod is known to be being deleted, or gone in the last
// 10 minutes. Whoever waits for a pod begins the wait first and asks then: what
// happens later comes by Config.Deleting.
func (k *Kube) IsDeleting(uid string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, yes := k.deleting[uid]
	return yes
}

func (k *Kube) saw(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		k.note(string(pod.UID), time.Time{})
	}
}

func (k *Kube) gone(pod *corev1.Pod) {
	k.note(string(pod.UID), time.Now())
}

// note writes down that a pod is being deleted, or since when it is gone, and tells
// it if that is news.
func (k *Kube) note(uid string, gone time.Time) {
	k.mu.Lock()
	for u, since := range k.deleting {
		if !since.IsZero() && time.Since(since) > rememberGone {
			delete(k.deleting, u)
		}
	}
	_, known := k.deleting[uid]
	k.deleting[uid] = gone
	k.mu.Unlock()
	if !known {
		k.onDelete(uid)
	}
}
