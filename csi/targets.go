package csi

import (
	"sync"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

// targets are the target paths that an operation is in flight on, and the names of the
// pins that it may make or remove (mount.Source). The zero value is ready.
type targets struct {
	mu   sync.Mutex // guards busy
	busy map[string]struct{}
}

// lock claims the volume's target and its pin's name.
func (t *targets) lock(v *agentpb.Volume) (unlock func(), ok bool) {
	return t.tryLock(v.GetTargetPath(), mount.Source(v.GetId(), v.GetTargetPath()))
}

// tryLock claims every key until unlock is called, or reports that one is claimed.
func (t *targets) tryLock(keys ...string) (unlock func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range keys {
		if _, taken := t.busy[key]; taken {
			return nil, false
		}
	}
	if t.busy == nil {
		t.busy = make(map[string]struct{})
	}
	for _, key := range keys {
		t.busy[key] = struct{}{}
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, key := range keys {
			delete(t.busy, key)
		}
	}, true
}

func errPending(volume *agentpb.Volume) error {
	return failf(pending, "operation pending: an earlier call for %s has not ended yet", volume.GetTargetPath())
}
