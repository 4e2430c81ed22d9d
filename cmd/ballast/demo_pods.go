package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/csi"
	"github.com/ballast-csi/ballast/fetcher"
)

// kubelet does kubelet's part (k8s.io/kubernetes pkg/volume/csi): its directories, its
// requests, its retries.
type kubelet struct {
	conn     *grpc.ClientConn
	identity spec.IdentityClient
	node     spec.NodeClient
	pods     string // the directory of pods
	secrets  map[string]string
}

// pod has one inline volume, named model.
type pod struct {
	name, uid string
	dir       string // kubelet's directory for the volume
	target    string
}

func newKubelet(socket, pods string, token fetcher.Secret) (*kubelet, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", socket, err)
	}
	k := &kubelet{conn: conn, identity: spec.NewIdentityClient(conn), node: spec.NewNodeClient(conn), pods: pods}
	if !token.IsZero() {
		k.secrets = map[string]string{"HF_TOKEN": token.Reveal()}
	}
	return k, nil
}

// hello waits until the driver answers, and returns its name and version.
func (k *kubelet) hello(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	info, err := k.identity.GetPluginInfo(ctx, &spec.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return "", fmt.Errorf("the CSI driver does not answer on its socket: %w", err)
	}
	node, err := k.node.NodeGetInfo(ctx, &spec.NodeGetInfoRequest{})
	if err != nil {
		return "", fmt.Errorf("NodeGetInfo: %w", err)
	}
	return fmt.Sprintf("%s %s on node %s", info.GetName(), info.GetVendorVersion(), node.GetNodeId()), nil
}

// newPod makes the n-th pod.
func (k *kubelet) newPod(n int, name string) pod {
	p := pod{name: name, uid: fmt.Sprintf("00000000-0000-4000-8000-%012d", n)}
	p.dir = filepath.Join(k.pods, p.uid, "volumes", "kubernetes.io~csi", "model")
	p.target = filepath.Join(p.dir, "mount")
	return p
}

// volumeID is kubelet's makeVolumeHandle for an inline volume.
func (p pod) volumeID() string {
	sum := sha256.Sum256([]byte(p.uid + "model"))
	return "csi-" + hex.EncodeToString(sum[:])
}

func (k *kubelet) request(p pod, attributes map[string]string) *spec.NodePublishVolumeRequest {
	volume := map[string]string{
		"csi.storage.k8s.io/pod.name":            p.name,
		"csi.storage.k8s.io/pod.namespace":       "default",
		"csi.storage.k8s.io/pod.uid":             p.uid,
		"csi.storage.k8s.io/serviceAccount.name": "default",
		"csi.storage.k8s.io/ephemeral":           "true",
	}
	for key, value := range attributes {
		volume[key] = value
	}
	return &spec.NodePublishVolumeRequest{
		VolumeId:   p.volumeID(),
		TargetPath: p.target,
		VolumeCapability: &spec.VolumeCapability{
			AccessType: &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{}},
			AccessMode: &spec.VolumeCapability_AccessMode{Mode: spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		Readonly:      true,
		Secrets:       k.secrets,
		VolumeContext: volume,
	}
}

const (
	// attempt is how long one call may take. kubelet gives 2 min; the demo sooner
	// says what it waits for.
	attempt = 15 * time.Second
	// patience is how long nothing may come before the demo gives up, which kubelet
	// never does: before the first byte, and after it (a large file may take a while
	// to be made durable).
	patience      = 20 * time.Second
	patienceLater = 5 * time.Minute
)

// publish calls NodePublishVolume until it succeeds or fails for good, as kubelet does.
// event is called with what would be the pod's event; fetched tells of progress.
func (k *kubelet) publish(ctx context.Context, p pod, attributes map[string]string, fetched func() int64, event func(string)) error {
	if err := os.MkdirAll(p.dir, 0o750); err != nil {
		return err
	}
	data := fmt.Sprintf(`{"driverName":%q,"volumeHandle":%q,"volumeLifecycleMode":"Ephemeral"}`, csi.DefaultDriver, p.volumeID())
	if err := os.WriteFile(filepath.Join(p.dir, "vol_data.json"), []byte(data), 0o600); err != nil {
		return err
	}
	last, had, wait := time.Now(), fetched(), patience
	for {
		err := k.tryPublish(ctx, p, attributes)
		if err == nil {
			return nil
		}
		if !uncertain(err) {
			if ferr := k.forget(p); ferr != nil {
				return ferr
			}
			return err
		}
		if now := fetched(); now > had {
			last, had, wait = time.Now(), now, patienceLater
		}
		if ctx.Err() != nil || time.Since(last) > wait {
			return err
		}
		event(status.Convert(err).Message())
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// uncertain reports whether kubelet takes a failed publish for one that may still have
// happened (csi_client.go isFinalError): it calls again, and unpublishes at the end.
func uncertain(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return true
	}
	return false
}

func (k *kubelet) tryPublish(ctx context.Context, p pod, attributes map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	_, err := k.node.NodePublishVolume(ctx, k.request(p, attributes))
	return err
}

// forget is what kubelet does after a final error: it never calls NodeUnpublishVolume.
func (k *kubelet) forget(p pod) error {
	var errs []error
	for _, path := range []string{p.target, filepath.Join(p.dir, "vol_data.json"), p.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// unpublish is what kubelet does once the pod's containers are gone.
func (k *kubelet) unpublish(ctx context.Context, p pod) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	if _, err := k.node.NodeUnpublishVolume(ctx, &spec.NodeUnpublishVolumeRequest{VolumeId: p.volumeID(), TargetPath: p.target}); err != nil {
		return fmt.Errorf("NodeUnpublishVolume of pod %s: %w", p.name, err)
	}
	return k.forget(p)
}
