package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

const (
	// pinsTime is how long the agent may take to list its pins.
	pinsTime = 10 * time.Second
	// retryReconcile is the pause before an agent that was away is asked again.
	retryReconcile = 5 * time.Second
	// maxFailures ends a round: an agent that fails so often is as good as away.
	maxFailures = 10
	// maxUnreadable is how many pins that cannot be read are looked at in a round.
	maxUnreadable = 1000
)

// reconcileUntil reconciles pins at once, whenever the agent is back after it could not
// be asked, and at least once every period, until ctx ends.
func (n *node) reconcileUntil(ctx context.Context, every time.Duration) {
	away := false
	for {
		pause := every
		switch err := n.reconcile(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			if pause = min(every, retryReconcile); !away {
				n.log.Warn("pins cannot be reconciled until the agent is back", zap.Error(err))
			}
			away = true
		case away:
			n.log.Info("the agent is back: pins are reconciled")
			away = false
		}
		reconnect := n.reconnect
		if away {
			reconnect = nil // being asked again already
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		case <-reconnect:
		}
	}
}

// reconcile releases the pins of volumes that are gone: those kubelet never unpublished
// (after a final code, or while the agent was away). Then it looks for the reverse. An
// error means that the agent could not be asked.
func (n *node) reconcile(ctx context.Context) error {
	pins, err := n.pins(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, volume := range pins.GetVolumes() {
		if err := n.reconcilePin(volume); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil || len(failed) == maxFailures {
			return errors.Join(append(failed, ctx.Err())...)
		}
	}
	sees := seesVolumes(pins.GetVolumes())
	names := n.wellFormed(pins.GetUnreadable())
	for _, name := range names[:min(len(names), maxUnreadable)] {
		if err := n.reconcileUnreadable(name, sees); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil || len(failed) == maxFailures {
			return errors.Join(append(failed, ctx.Err())...)
		}
	}
	return errors.Join(append(failed, n.findUnpinned(ctx, pins))...)
}

func (n *node) pins(ctx context.Context) (*agentpb.PinsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, pinsTime)
	defer cancel()
	resp, err := n.agent.Pins(ctx, &agentpb.PinsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	return resp, nil
}

// reconcilePin releases the volume's pin if it is certain that nothing uses it: no
// operation is in flight, neither its target nor anything else shows it, and kubelet's
// directory for the volume is gone. Whatever cannot be told keeps the pin.
func (n *node) reconcilePin(volume *agentpb.Volume) error {
	unlock, ok := n.targets.lock(volume)
	if !ok {
		return nil
	}
	defer unlock()
	if !volumeGone(volume.GetTargetPath()) || n.gone(volume) != nil {
		return nil
	}
	if err := n.release(volume); err != nil {
		return err
	}
	n.metrics.reconciled.Inc()
	n.log.Info("released the pin of a volume that is gone",
		zap.String(keyVolume, volume.GetId()), zap.String(keyTarget, volume.GetTargetPath()))
	return nil
}

// pinName is the form of a pin's name: what follows mount.SourcePrefix in a source.
var pinName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// wellFormed returns those names that may be a pin's.
func (n *node) wellFormed(names []string) []string {
	kept := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !pinName.MatchString(name) })
	if len(kept) < len(names) {
		n.log.Warn("the agent names pins in a way that no mount does: they are kept", zap.Int("pins", len(names)-len(kept)))
	}
	return kept
}

// reconcileUnreadable releases a pin of which only the name is left, if it is certain
// that its volume is not mounted. Its target is not known, but an overlay says its
// pin's name; a bind does not, so any bind may be it. sees: this process sees kubelet's
// volumes. Without that, no mount that it sees says nothing.
func (n *node) reconcileUnreadable(name string, sees bool) error {
	source := mount.SourcePrefix + name
	unlock, ok := n.targets.tryLock(source)
	if !ok {
		return nil
	}
	defer unlock()
	if n.notShown(func(m mount.Info) bool { return m.Source == source || m.View != "" }) != nil {
		return nil
	}
	if !sees {
		n.log.Warn("a pin cannot be read, and is kept: whether its volume is mounted cannot be told, as there is no other pin "+
			"that shows that kubelet's directory can be seen from here. While it is kept nothing is evicted. Check that the CSI driver's pod "+
			"mounts kubelet's directory (its --root-dir) under its own path; then the pin is released while another pod on this node has a "+
			"Ballast volume. Or, if the node's /proc/1/mountinfo does not have the source in this entry and no pod with hostUsers: false has a "+
			"Ballast volume, remove the pin's file from pins in the cache directory and restart the agent",
			zap.String(keyPin, name), zap.String("source", source))
		return nil
	}
	if err := n.askRelease(&agentpb.ReleaseRequest{Pin: name}); err != nil {
		return err
	}
	n.metrics.reconciled.Inc()
	n.log.Info("released a pin that could not be read: no mount is of its volume", zap.String(keyPin, name))
	return nil
}

// seesVolumes reports whether this process demonstrably sees the directory in which
// kubelet has its volumes: that of a pin.
func seesVolumes(pins []*agentpb.Volume) bool {
	return slices.ContainsFunc(pins, func(v *agentpb.Volume) bool {
		at, ok := parseTarget(v.GetTargetPath())
		return ok && isDir(at.pods)
	})
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// volumeGone reports whether target is kubelet's
// <root>/pods/<uid>/volumes/kubernetes.io~csi/<name>/mount and its directory <name> is
// gone, while <root>/pods is there. Without the last, and for any other path (ballast
// mount's), this process may simply not see that part of the node.
func volumeGone(target string) bool {
	if at, ok := parseTarget(target); !ok || !isDir(at.pods) {
		return false
	}
	_, err := os.Lstat(filepath.Dir(target))
	return errors.Is(err, fs.ErrNotExist)
}
