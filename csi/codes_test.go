package csi

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

// kubelet's own list: pkg/volume/csi/csi_client.go, isFinalError.
var uncertainCodes = []codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted}

func TestEveryCodeMeansToKubeletWhatTheTableSays(t *testing.T) {
	for why, o := range outcomes {
		if got := slices.Contains(uncertainCodes, o.code); got != (o.next == uncertain) {
			t.Errorf("%s: %s is uncertain to kubelet: %v", why, o.code, got)
		}
		if o.code == codes.OK || o.code == codes.Unknown {
			t.Errorf("%s: code %s", why, o.code)
		}
	}
	for why := range agentpb.Refused_Reason_name {
		if _, known := refusals[agentpb.Refused_Reason(why)]; !known && why != int32(agentpb.Refused_UNKNOWN) {
			t.Errorf("the agent's %s is not in the table", agentpb.Refused_Reason(why))
		}
	}
}

func TestARefusalsCodeSaysWhatKubeletDoesNextAndLeavesNothing(t *testing.T) {
	b := newBench(t)
	client, _ := b.run(t)
	target := b.target(t, "pod-1")
	for why, want := range map[agentpb.Refused_Reason]codes.Code{
		agentpb.Refused_UNKNOWN: codes.Internal, agentpb.Refused_INVALID: codes.InvalidArgument,
		agentpb.Refused_NOT_FOUND: codes.NotFound, agentpb.Refused_UNAUTHENTICATED: codes.Unauthenticated,
		agentpb.Refused_DENIED: codes.PermissionDenied, agentpb.Refused_MISMATCH: codes.DataLoss,
		agentpb.Refused_NO_SPACE: codes.ResourceExhausted, agentpb.Refused_INTERNAL: codes.Internal, 99: codes.Internal,
	} {
		for _, message := range []string{"org/name: what to do next", ""} {
			b.agent.set(func(a *fakeAgent) {
				a.acquire, a.releases = answering(refusing(why, message)), 0
				a.pin(&agentpb.Volume{Id: "vol", TargetPath: target}) // of an earlier call
			})
			_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
			wantCode(t, err, want)
			if text := status.Convert(err).Message(); !strings.Contains(text, message) || text == "" {
				t.Errorf("%s: text %q", why, text)
			}
			final := !slices.Contains(uncertainCodes, want)
			if left := b.agent.pinned() == 1; left == final {
				t.Errorf("%s: pin left: %v, final: %v", why, left, final)
			}
			b.wantMounted(t, target, false)
		}
	}
}

func TestNoFinalCodeWhileThePinMayBeLeft(t *testing.T) {
	refuse := answering(refusing(agentpb.Refused_DENIED, "accept the conditions"))
	for name, failing := range map[string]func(*fakeAgent){
		"the agent refuses":     func(a *fakeAgent) { a.acquire = refuse },
		"the request is broken": func(*fakeAgent) {},
		"the mount fails":       func(a *fakeAgent) { r := ready(); r.GetReady().View = ".."; a.acquire = answering(r) },
	} {
		for _, done := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				b := newBench(t)
				client, _ := b.run(t)
				target := b.target(t, "pod-1")
				r := publishRequest("vol", target)
				if name == "the request is broken" {
					r.VolumeContext["layout"] = "accept the conditions"
				}
				b.agent.set(func(a *fakeAgent) {
					failing(a)
					a.releaseErr, a.releaseDone = errAway, done
				})
				_, err := client.NodePublishVolume(t.Context(), r)
				wantCode(t, err, codes.Unavailable)
				if name != "the mount fails" && !strings.Contains(err.Error(), "accept the conditions") {
					t.Errorf("the mistake itself is not told: %v", err)
				}
				b.agent.set(func(a *fakeAgent) { a.releaseErr = nil })
				_, err = client.NodePublishVolume(t.Context(), r)
				if code := status.Code(err); slices.Contains(uncertainCodes, code) || code == codes.OK {
					t.Errorf("with nothing left the code is %s", code)
				}
				if n := b.agent.pinned(); n != 0 {
					t.Errorf("%d pins left", n)
				}
			})
		}
	}
}

func TestAFailedMountIsUndoneWhetherItHappenedOrNot(t *testing.T) {
	for _, happened := range []bool{false, true} {
		b := newBench(t, func(c *Config) {
			m, err := mount.New(mount.Config{CacheDir: c.CacheDir})
			must(t, err)
			c.Mounter = &faultyMounter{m, happened}
		})
		client, _ := b.run(t)
		target := b.target(t, "pod-1")
		_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
		wantCode(t, err, codes.Internal)
		if !strings.Contains(err.Error(), errFault.Error()) {
			t.Errorf("error does not say why: %v", err)
		}
		b.wantMounted(t, target, false)
		if n := b.agent.pinned(); n != 0 {
			t.Errorf("%d pins left", n)
		}
	}
}

// stuckMounter cannot unmount, or cannot tell.
type stuckMounter struct {
	faultyMounter
	blind bool
}

func (m *stuckMounter) Unmount(string) error { return errFault }

func (m *stuckMounter) Lookup(target string) (mount.Info, bool, error) {
	if m.blind {
		return mount.Info{}, false, errFault
	}
	return m.faultyMounter.Lookup(target)
}

func (m *stuckMounter) Mounts() ([]mount.Info, error) {
	if m.blind {
		return nil, errFault
	}
	return m.faultyMounter.Mounts()
}

func TestAMountThatCannotBeUndoneKeepsItsPin(t *testing.T) {
	b := newBench(t)
	real := b.node.mounter
	m := &stuckMounter{faultyMounter: faultyMounter{real, true}}
	b.node.mounter = m
	target := b.target(t, "pod-1")
	_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
	wantCode(t, err, codes.Unavailable)
	if n := b.agent.pinned(); n != 1 {
		t.Errorf("%d pins", n)
	}
	m.blind = true
	_, err = b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
	wantCode(t, err, codes.Unavailable)
	if b.agent.releases != 0 {
		t.Error("released a pin without knowing whether its volume is mounted")
	}
}

// lyingMounter says that it has unmounted.
type lyingMounter struct{ Mounter }

func (lyingMounter) Unmount(string) error { return nil }

func TestOnlyMountinfoIsBelievedBeforeAPinIsReleased(t *testing.T) {
	b := newBench(t)
	b.node.mounter = lyingMounter{b.node.mounter}
	target := b.target(t, "pod-1")
	_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	wantCode(t, err, codes.Unavailable)
	err = b.node.settle(&agentpb.Volume{Id: "vol", TargetPath: target}, failf(denied, "denied"))
	wantCode(t, err, codes.Unavailable)
	if n := b.agent.pinned(); n != 1 || b.agent.releases != 0 {
		t.Errorf("%d pins, %d releases of a volume that is mounted", n, b.agent.releases)
	}
}

func TestTheAgentsTextIsMadeFitToPrint(t *testing.T) {
	f := refused(&agentpb.Refused{Reason: agentpb.Refused_DENIED, Message: "a\x00b\xffc\nd\x1b[1m" + strings.Repeat("é", 2000)})
	text := f.GRPCStatus().Message()
	if len(text) > maxText+3 || !strings.HasPrefix(text, "a b?c\nd [1mé") {
		t.Errorf("%d bytes: %.40q", len(text), text)
	}
}

func TestAnErrorOutsideTheTableIsUncertain(t *testing.T) {
	b := newBench(t)
	err := b.node.settle(&agentpb.Volume{Id: "v", TargetPath: "/x"}, errors.New("surprise"))
	wantCode(t, err, codes.Unavailable)
}

// orderedAgent and orderedMounter write down what happened when.
type orderedAgent struct {
	*fakeAgent
	log *[]string
}

func (a orderedAgent) Release(ctx context.Context, in *agentpb.ReleaseRequest, opts ...grpc.CallOption) (*agentpb.ReleaseResponse, error) {
	*a.log = append(*a.log, "unpin")
	return a.fakeAgent.Release(ctx, in, opts...)
}

type orderedMounter struct {
	Mounter
	log *[]string
}

func (m orderedMounter) Mount(s mount.Spec) error {
	*m.log = append(*m.log, "mount")
	return m.Mounter.Mount(s)
}

func (m orderedMounter) Unmount(target string) error {
	*m.log = append(*m.log, "unmount")
	return m.Mounter.Unmount(target)
}

func TestPinThenMountUnmountThenUnpin(t *testing.T) {
	b := newBench(t)
	var log []string
	agent := &fakeAgent{acquire: func(context.Context, *agentpb.AcquireRequest) (*agentpb.AcquireResponse, error) {
		log = append(log, "pin")
		return ready(), nil
	}}
	b.node.agent = orderedAgent{agent, &log}
	b.node.mounter = orderedMounter{b.node.mounter, &log}
	target := b.target(t, "pod-1")
	_, err := b.node.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	_, err = b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	if want := []string{"pin", "mount", "unmount", "unpin"}; !slices.Equal(log, want) {
		t.Errorf("order %v, want %v", log, want)
	}
}
