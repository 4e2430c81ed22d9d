package csi

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

// Reconciliation goes by what the agent lists. It removes nothing but pins, which are
// the agent's.
func TestABrokenAgentsPinsUnmountAndRemoveNothing(t *testing.T) {
	b, behave := broken(t)
	target, other := b.target(t, "pod-1"), b.target(t, "pod-2")
	must(t, b.publishes(t, target, time.Minute))
	must(t, os.Mkdir(other, 0o750)) // another driver's
	must(t, unix.Mount("tmpfs", other, "tmpfs", 0, ""))
	empty := filepath.Join(b.dir, "kubelet/pods/pod-3/volumes/kubernetes.io~csi/model/mount")
	must(t, os.MkdirAll(empty, 0o750))
	decoy := filepath.Join(b.cfg.CacheDir, "pods") // in what is the agent's own
	must(t, os.Symlink(filepath.Join(b.dir, "kubelet/pods"), decoy))
	pods := filepath.Join(b.dir, "kubelet/pods")
	live := nameOf("vol", target)

	targets := []string{
		"", "/", ".", "..", "/etc", "/proc/self/fd/0", "etc", pods, filepath.Dir(pods), target, target + "/", target + "/..", target + "/sub",
		other, filepath.Dir(other), empty, "\x1b[2J", strings.Repeat("/x", 2_000), strings.Repeat("../", 1_000),
		decoy + "/pod-1/volumes/kubernetes.io~csi/model/mount", decoy + "/gone/volumes/kubernetes.io~csi/model/mount",
		pods + "/gone/volumes/kubernetes.io~csi/model/mount", pods + "/../pods/gone/volumes/kubernetes.io~csi/../kubernetes.io~csi/m/mount",
		pods + "/pod-2/volumes/kubernetes.io~csi/model/mount/pods/1/volumes/kubernetes.io~csi/m/mount",
	}
	pins := &agentpb.PinsResponse{Unreadable: []string{live, "", "../../etc", strings.Repeat("f", 64), strings.Repeat("F", 64), strings.Repeat("0", 63) + "\n", strings.Repeat("0", 2_000)}}
	for _, target := range targets {
		for _, id := range []string{"vol", "", "x", "../..", "\x1b[31m"} {
			pins.Volumes = append(pins.Volumes, &agentpb.Volume{Id: id, TargetPath: target})
		}
	}
	many := &agentpb.PinsResponse{Volumes: make([]*agentpb.Volume, 60_000), Unreadable: make([]string, 60_000)}
	for i := range many.Volumes {
		many.Volumes[i] = &agentpb.Volume{}
	}
	long := &agentpb.PinsResponse{}
	for i := range 500 {
		long.Volumes = append(long.Volumes, &agentpb.Volume{Id: "v", TargetPath: fmt.Sprintf("%s/gone-%d/volumes/kubernetes.io~csi/m/mount", pods, i)})
		long.Unreadable = append(long.Unreadable, fmt.Sprintf("%064x", i))
	}
	million := &agentpb.PinsResponse{Unreadable: make([]string, 1_000_000)}

	before := b.state(t)
	for name, list := range map[string]*agentpb.PinsResponse{
		"odd ones": pins, "none, though one is mounted": {}, "120,000 empty ones": many, "1,000": long, "a million": million,
	} {
		for what, releases := range map[string]error{"released": nil, "not released": status.Error(codes.Internal, "\x1b no")} {
			listed, err := proto.Marshal(list)
			must(t, err)
			b.logs.TakeAll()
			released := 0
			behave(func(method string, stream grpc.ServerStream) error {
				if method == "Pins" {
					return stream.SendMsg(&listed)
				}
				released++ // one call at a time
				answer := []byte{}
				if releases != nil {
					return releases
				}
				return stream.SendMsg(&answer)
			})
			start := time.Now()
			err = b.node.reconcile(t.Context())
			t.Logf("%s, %s: %d calls of Release, %d log entries, %s: %.200v", name, what, released, b.logs.Len(), time.Since(start).Round(time.Millisecond), err)
			if after := b.state(t); after != before {
				t.Fatalf("%s: changed:\n%s\nit was\n%s", name, after, before)
			}
			if releases != nil && released > 10 {
				t.Errorf("%s: an agent that releases nothing was asked %d times", name, released)
			}
			if n := b.logs.Len(); n > released+maxUnreadable+10 {
				t.Errorf("%s: %d log entries", name, n)
			}
		}
	}
	if info, found := b.mounted(t, target); !found || info.Source != mount.Source("vol", target) {
		t.Errorf("the volume: %+v", info)
	}
	behave(saying(ready()))
	must(t, b.publishes(t, b.target(t, "pod-4"), time.Minute))
}
