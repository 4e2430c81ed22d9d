package csi

import (
	"context"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

// node is CSI's Node service.
type node struct {
	spec.UnimplementedNodeServer
	driver, id string
	agent      Agent
	mounter    Mounter
	log        *zap.Logger
	metrics    *metrics
	targets    targets
	// reconnect has an entry when the agent could not be asked: pins may be left over.
	reconnect chan struct{}
	// stopped ends when the server stops, and every wait with it.
	stopped context.Context
	stop    context.CancelFunc
}

func newNode(cfg Config, m *metrics) *node {
	n := &node{
		driver: cfg.Driver, id: cfg.NodeID, agent: cfg.Agent, mounter: cfg.Mounter,
		log: cfg.Log, metrics: m, reconnect: make(chan struct{}, 1),
	}
	n.stopped, n.stop = context.WithCancel(context.Background())
	return n
}

// NodeGetCapabilities lists none: no staging, no stats (a View's size is no pod's).
func (n *node) NodeGetCapabilities(context.Context, *spec.NodeGetCapabilitiesRequest) (*spec.NodeGetCapabilitiesResponse, error) {
	return &spec.NodeGetCapabilitiesResponse{}, nil
}

// NodeGetInfo returns the node's name alone: a topology that ever changed would fail
// registration (nodeinfomanager.go), and no limit of ours is one kubelet can count.
func (n *node) NodeGetInfo(context.Context, *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	return &spec.NodeGetInfoResponse{NodeId: n.id}, nil
}

// NodePublishVolume mounts the View the attributes name, holding the call until it is
// there (acquire). A volume that is mounted already is answered from mountinfo alone.
func (n *node) NodePublishVolume(ctx context.Context, r *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	start := time.Now()
	mounted, err := n.publish(ctx, r)
	n.metrics.published(time.Since(start), mounted, err)
	if err != nil {
		return nil, err
	}
	return &spec.NodePublishVolumeResponse{}, nil
}

// publish reports whether the volume was mounted before.
func (n *node) publish(ctx context.Context, r *spec.NodePublishVolumeRequest) (mounted bool, err error) {
	volume, err := parseVolume(r)
	if err != nil {
		return false, err
	}
	unlock, ok := n.targets.lock(volume)
	if !ok {
		return false, errPending(volume)
	}
	defer unlock()

	if mounted, err := n.isMounted(volume); mounted || err != nil {
		return mounted, err
	}
	req, err := parsePublish(r, n.driver)
	if err != nil {
		return false, n.settle(volume, err)
	}
	ready, err := n.acquire(ctx, req)
	if err != nil {
		return false, n.settle(volume, err)
	}
	if err := n.show(r, volume, ready); err != nil {
		return false, n.settle(volume, err)
	}
	n.log.Info("mounted", zap.String(keyVolume, volume.GetId()), zap.String(keyTarget, volume.GetTargetPath()),
		zap.String("repo", req.GetRepo()), zap.String("commit", ready.GetCommit()), zap.Bool("bind", ready.GetBind()),
		zap.Int64("fetched_bytes", ready.GetFetchedBytes()), zap.String("notice", ready.GetNotice()),
		zap.String("pod", req.GetPod().GetNamespace()+"/"+req.GetPod().GetName()))
	return false, nil
}

// show mounts what the agent made ready.
func (n *node) show(r *spec.NodePublishVolumeRequest, volume *agentpb.Volume, ready *agentpb.Ready) error {
	if ready.GetBind() && !r.GetReadonly() {
		// The bind's read-only flag is all there is, and runc clears it for a pod that
		// asks for a writable volume. The agent says so too, before it fetches anything,
		// but one that is older than this does not.
		return failf(badRequest, "a pod with a user namespace of its own (hostUsers: false) must mount the volume read-only: "+
			"set readOnly: true in the pod's persistentVolumeClaim volume, or in the PersistentVolume's csi")
	}
	if !viewPath.MatchString(ready.GetView()) {
		return failf(mountFailed, "the agent gave %.128q to mount, which is no view: it and the CSI driver may be of versions too far apart", ready.GetView())
	}
	err := n.mounter.Mount(mount.Spec{
		View: ready.GetView(), Empty: ready.GetEmpty(), Bind: ready.GetBind(),
		Source: mount.Source(volume.GetId(), volume.GetTargetPath()), Target: volume.GetTargetPath(),
	})
	if err != nil {
		return failf(mountFailed, "the volume is complete, but could not be mounted: %v", err)
	}
	return nil
}

// isMounted reports whether the volume is mounted on its target. Another mount there is
// an error.
func (n *node) isMounted(volume *agentpb.Volume) (bool, error) {
	target := volume.GetTargetPath()
	info, found, err := n.mounter.Lookup(target)
	switch {
	case err != nil:
		return false, failf(nodeFailed, "whether %s is mounted cannot be told: %v", target, err)
	case !found:
		return false, nil
	case info.FSType == "overlay" && info.SuperReadOnly && info.Source == mount.Source(volume.GetId(), target):
		return true, nil
	case isBind(info): // it does not say whose it is
		return true, nil
	}
	return false, failf(foreign, "%s holds a mount that is not this volume's (%s, source %q, root %q): Ballast leaves it alone. "+
		"Find out who mounted it, and unmount it", target, info.FSType, info.Source, info.Root)
}

// undoTime is how long Release may take when a call is about to end.
const undoTime = 2 * time.Second

// settle is the last thing a failed publish does: kubelet forgets a volume after a
// final code, so one is returned only once neither mount nor pin is left.
func (n *node) settle(volume *agentpb.Volume, err error) error {
	f, ok := err.(*failure)
	if !ok {
		f = failf(nodeFailed, "%v", err)
	}
	if !f.final() {
		return f
	}
	left := func(why error) error {
		return failf(unfinished, "%s (will be final once its pin is released: %v)", f.text, why)
	}
	// "It failed" may mean that it happened: only mountinfo says whether it is mounted.
	mounted, err := n.isMounted(volume)
	if err == nil && mounted {
		err = n.mounter.Unmount(volume.GetTargetPath())
	}
	if err == nil {
		err = n.gone(volume)
	}
	if err != nil {
		return left(err)
	}
	if err := n.release(volume); err != nil {
		return left(err)
	}
	return f
}

// stillMounted returns an error unless the target is known not to be a mount.
func (n *node) stillMounted(volume *agentpb.Volume) error {
	info, found, err := n.mounter.Lookup(volume.GetTargetPath())
	switch {
	case err != nil:
		return failf(nodeFailed, "whether %s is mounted cannot be told: %v", volume.GetTargetPath(), err)
	case found:
		return failf(nodeFailed, "%s is still mounted (%s, source %q)", volume.GetTargetPath(), info.FSType, info.Source)
	}
	return nil
}

// release ends the volume's waiting and its pin.
func (n *node) release(volume *agentpb.Volume) error {
	return n.askRelease(&agentpb.ReleaseRequest{Volume: volume})
}

// askRelease asks the agent to release a pin. The caller holds its lock and has seen
// that nothing shows its volume. It has its own time, whatever is left of the call's.
func (n *node) askRelease(r *agentpb.ReleaseRequest) error {
	ctx, cancel := context.WithTimeout(n.stopped, undoTime)
	defer cancel()
	if _, err := n.agent.Release(ctx, r); err != nil {
		n.agentGone()
		return failf(agentAway, "%s: %v", agentUnreachable, err)
	}
	return nil
}

// NodeUnpublishVolume unmounts the volume, then releases it. It is idempotent, and
// succeeds without the agent, or while the volume is mounted elsewhere: reconciliation
// releases the pin later.
func (n *node) NodeUnpublishVolume(_ context.Context, r *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	volume, err := parseVolume(r)
	if err != nil {
		return nil, err
	}
	unlock, ok := n.targets.lock(volume)
	if !ok {
		return nil, errPending(volume)
	}
	defer unlock()

	if _, err := n.isMounted(volume); err != nil {
		return nil, err
	}
	if err := n.mounter.Unmount(volume.GetTargetPath()); err != nil {
		return nil, failf(nodeFailed, "%v", err)
	}
	if err := n.stillMounted(volume); err != nil {
		return nil, err
	}
	log := n.log.With(zap.String(keyVolume, volume.GetId()), zap.String(keyTarget, volume.GetTargetPath()))
	if err := n.notElsewhere(volume); err != nil {
		log.Warn("no mount is to be seen on the target, but the volume, or a part of it, may be mounted elsewhere: "+
			"the pin is released once it certainly is not", zap.Error(err))
	} else if err := n.release(volume); err != nil {
		log.Warn("unmounted, but the pin is still there: it is released when the agent is back", zap.Error(err))
	} else {
		log.Info("unmounted")
	}
	return &spec.NodeUnpublishVolumeResponse{}, nil
}
