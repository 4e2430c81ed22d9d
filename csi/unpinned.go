package csi

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

// findUnpinned tells of volumes that are mounted and have no pin: their files may be
// evicted while a pod reads them. Nothing here can mend it, as only the pod's spec says
// what to pin; it must not go unseen. pins were listed before. An error means that the
// agent could not be asked.
func (n *node) findUnpinned(ctx context.Context, pins *agentpb.PinsResponse) error {
	mounts, err := n.mounter.Mounts()
	if err != nil {
		n.log.Warn("whether every mount has its pin cannot be told", zap.Error(err))
		return nil
	}
	found := unpinned(mounts, pins)
	if len(found) > 0 {
		// A volume that was published between the two listings looks like this, and so
		// does one that is unpublished now. Once more: with no operation in flight, and
		// in the other order.
		for key := range found {
			unlock, ok := n.targets.tryLock(key)
			if !ok {
				delete(found, key)
				continue
			}
			defer unlock()
		}
		if mounts, err = n.mounter.Mounts(); err != nil {
			n.log.Warn("whether every mount has its pin cannot be told", zap.Error(err))
			return nil
		}
		if pins, err = n.pins(ctx); err != nil {
			return err
		}
		still := unpinned(mounts, pins)
		maps.DeleteFunc(found, func(key string, _ []string) bool { return still[key] == nil })
	}
	n.metrics.unpinned.Set(float64(len(found)))
	for _, key := range slices.Sorted(maps.Keys(found)) {
		n.log.Error("a volume is mounted, but the agent has no pin for it: its files may be evicted while its pod reads them. "+
			"Delete the pod, so that it is made anew, and find out what became of the pins in the cache directory. "+
			"(If another install of Ballast, with a cache of its own, runs on this node, this may be a volume of its, and all is well: "+
			"an overlay does not say whose cache it shows)",
			zap.Strings("targets", found[key]), zap.String(keyPin, strings.TrimPrefix(key, mount.SourcePrefix)))
	}
	return nil
}

// unpinned returns the targets of the mounts that no pin is for. The key is what to lock:
// the source of an overlay, the target of a bind.
func unpinned(mounts []mount.Info, pins *agentpb.PinsResponse) map[string][]string {
	found, binds := map[string][]string{}, false
	for _, m := range mounts {
		key := m.Source
		if !strings.HasPrefix(key, mount.SourcePrefix) {
			if key = m.Target; !isBind(m) || len(pins.GetUnreadable()) > 0 {
				continue // no bind of a publish's, or one whose pin may be there
			}
			binds = true
		}
		found[key] = append(found[key], m.Target)
	}
	for _, name := range pins.GetUnreadable() {
		delete(found, mount.SourcePrefix+name)
	}
	for _, v := range pins.GetVolumes() {
		delete(found, mount.Source(v.GetId(), v.GetTargetPath()))
		delete(found, v.GetTargetPath())
	}
	if !binds {
		return found
	}
	// mountinfo may have a bind's target by another path than kubelet.
	for _, v := range pins.GetVolumes() {
		if dir, err := filepath.EvalSymlinks(filepath.Dir(v.GetTargetPath())); err == nil {
			delete(found, filepath.Join(dir, filepath.Base(v.GetTargetPath())))
		}
	}
	return found
}
