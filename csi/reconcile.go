package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/agentpb"
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
// (after a final code, or while the agent was away). An error means that the agent could
// not be asked.
func (n *node) reconcile(ctx context.Context) error {
	list, cancel := context.WithTimeout(ctx, pinsTime)
	defer cancel()
	resp, err := n.agent.Pins(list, &agentpb.PinsRequest{})
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	var failed error
	for _, volume := range resp.GetVolumes() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := n.reconcilePin(volume); err != nil {
			failed = err
		}
	}
	return failed
}

// reconcilePin releases the volume's pin if it is certain that nothing uses it: no
// operation is in flight, its target is not a mount, and kubelet's directory for the
// volume is gone. Whatever cannot be told keeps the pin.
func (n *node) reconcilePin(volume *agentpb.Volume) error {
	unlock, ok := n.targets.tryLock(volume.GetTargetPath())
	if !ok {
		return nil
	}
	defer unlock()
	if !volumeGone(volume.GetTargetPath()) || n.stillMounted(volume) != nil {
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
