package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/ballast-csi/ballast/fetcher"
)

// Pod is who uses a Volume. The zero Pod is nobody (the command line).
type Pod struct{ Namespace, Name, UID string }

// ErrPodGone: the pod has been deleted.
var ErrPodGone = errors.New("the pod is gone")

// Pods is what the agent asks about the node's pods. agent/kube satisfies it.
type Pods interface {
	// UserNamespace reports whether p has a user namespace of its own
	// (hostUsers: false). It asks rather than guesses. The error is ErrPodGone if
	// there is no such pod any more; any other one may pass.
	UserNamespace(ctx context.Context, p Pod) (bool, error)
	// IsDeleting reports whether the pod of this uid is known to be being deleted.
	IsDeleting(uid string) bool
	// Tell puts an event on p, a Warning or a Normal one; it never blocks, and may leave
	// out what is told too often.
	Tell(p Pod, reason, message string, warning bool)
}

// PodDeleting ends the waits of a pod that is being deleted at once, so that it does
// not hang in Terminating. Its Pins stay until Release.
func (a *Agent) PodDeleting(uid string) {
	if uid == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, calls := range a.calls {
		for c := range calls {
			if c.pod.UID == uid {
				c.over = true
				c.end()
			}
		}
	}
	for _, f := range a.flights {
		for v, w := range f.waiters {
			if w.pod.UID == uid {
				a.drop(f, v)
			}
		}
	}
}

// userNamespace reports whether p needs a mount that can be idmapped. Without API
// access there is nobody to ask, and every pod gets the overlay.
func (a *Agent) userNamespace(ctx context.Context, p Pod) (bool, error) {
	if a.cfg.Pods == nil || p.UID == "" {
		return false, nil
	}
	own, err := a.cfg.Pods.UserNamespace(ctx, p)
	if errors.Is(err, ErrPodGone) {
		return false, &WaitingError{Progress: err.Error(), Over: true}
	}
	if err != nil {
		return false, &fetcher.UnreachableError{Err: fmt.Errorf("whether pod %s/%s has a user namespace of its own is not known: %w", p.Namespace, p.Name, err)}
	}
	return own, nil
}

// Reasons of the events that the agent puts on pods, and those of reasons. The first two are
// no warnings.
const (
	reasonFetching = "BallastFetching" // how far it is
	reasonFetched  = "BallastFetched"  // that it is here, and from where
	reasonWaiting  = "BallastWaiting"  // what stands in the way of a Volume
	reasonStale    = "BallastStale"    // the Hub could not be asked, and an older answer was given
)

// tell puts message on the pod, if there is one and a way to.
func (a *Agent) tell(p Pod, reason, message string) {
	if a.cfg.Pods != nil && p.UID != "" {
		a.cfg.Pods.Tell(p, reason, message, reason != reasonFetching && reason != reasonFetched)
	}
}
