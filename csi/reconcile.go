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
	var failed error
	for _, volume := range pins.GetVolumes() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := n.reconcilePin(volume); err != nil {
			failed = err
		}
	}
	for _, name := range pins.GetUnreadable() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := n.reconcileUnreadable(name); err != nil {
			failed = err
		}
	}
	return errors.Join(failed, n.findUnpinned(ctx, pins))
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
	source := mount.Source(volume.GetId(), volume.GetTargetPath())
	if !volumeGone(volume.GetTargetPath()) || n.stillMounted(volume) != nil ||
		n.mayBeShown(func(m mount.Info) bool { return m.Source == source }) {
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

// reconcileUnreadable releases a pin of which only the name is left, if it is certain
// that its volume is not mounted. Its target is not known, but an overlay says its
// pin's name; a bind does not, so any bind may be it.
func (n *node) reconcileUnreadable(name string) error {
	if !pinName.MatchString(name) {
		n.log.Warn("the agent names a pin in a way that no mount does: it is kept", zap.String(keyPin, name))
		return nil
	}
	source := mount.SourcePrefix + name
	unlock, ok := n.targets.tryLock(source)
	if !ok {
		return nil
	}
	defer unlock()
	if n.mayBeShown(func(m mount.Info) bool { return m.Source == source || m.View != "" }) {
		return nil
	}
	if err := n.askRelease(&agentpb.ReleaseRequest{Pin: name}); err != nil {
		return err
	}
	n.metrics.reconciled.Inc()
	n.log.Info("released a pin that could not be read: no mount is of its volume", zap.String(keyPin, name))
	return nil
}

// mayBeShown reports whether a mount is as asked, or whether that cannot be told.
func (n *node) mayBeShown(as func(mount.Info) bool) bool {
	mounts, err := n.mounter.Mounts()
	return err != nil || slices.ContainsFunc(mounts, as)
}

// volumeGone reports whether target is kubelet's
// <root>/pods/<uid>/volumes/kubernetes.io~csi/<name>/mount and its directory <name> is
// gone, while <root>/pods is there. Without the last, and for any other path (ballast
// mount's), this process may simply not see that part of the node.
func volumeGone(target string) bool {
	dir := filepath.Dir(target)
	driver := filepath.Dir(dir)
	volumes := filepath.Dir(driver)
	pods := filepath.Dir(filepath.Dir(volumes))
	if filepath.Base(target) != "mount" || filepath.Base(driver) != "kubernetes.io~csi" ||
		filepath.Base(volumes) != "volumes" || filepath.Base(pods) != "pods" {
		return false
	}
	if info, err := os.Stat(pods); err != nil || !info.IsDir() {
		return false
	}
	_, err := os.Lstat(dir)
	return errors.Is(err, fs.ErrNotExist)
}
