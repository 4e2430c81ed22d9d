package csi

import (
	"sync"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

// targets are the target paths that an operation is in flight on. The zero value is
// ready.
type targets struct {
	mu   sync.Mutex // guards busy
	busy map[string]struct{}
}

// tryLock claims target until unlock is called, or reports that it is claimed.
func (t *targets) tryLock(target string) (unlock func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.busy[target]; taken {
		return nil, false
	}
	if t.busy == nil {
		t.busy = make(map[string]struct{})
	}
	t.busy[target] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.busy, target)
	}, true
}

func errPending(volume *agentpb.Volume) error {
	return failf(pending, "operation pending: an earlier call for %s has not ended yet", volume.GetTargetPath())
}
