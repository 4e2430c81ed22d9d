package csi

import (
	"context"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/csi/mount"
)

func encoded(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}

// wantFit checks that text can be shown in an event.
func wantFit(t *testing.T, text string) {
	t.Helper()
	bad := func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }
	if len(text) > maxText+3 || !utf8.ValidString(text) || strings.ContainsFunc(text, bad) {
		t.Errorf("%d bytes: %.300q", len(text), text)
	}
}

// A whole request, as gRPC hands it over.
func FuzzPublishRequest(f *testing.F) {
	add := func(edit func(*spec.NodePublishVolumeRequest)) {
		r := publishRequest("vol", somewhere)
		edit(r)
		f.Add(encoded(r))
	}
	add(func(*spec.NodePublishVolumeRequest) {})
	add(func(r *spec.NodePublishVolumeRequest) { r.Readonly = false })
	add(func(r *spec.NodePublishVolumeRequest) { r.TargetPath = "/a/../b\x00" })
	add(func(r *spec.NodePublishVolumeRequest) { r.VolumeCapability = nil })
	add(func(r *spec.NodePublishVolumeRequest) {
		r.VolumeCapability.AccessType = &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}
	})
	add(func(r *spec.NodePublishVolumeRequest) {
		r.VolumeContext = map[string]string{"repo": "a/b", "token": "x"}
	})
	add(func(r *spec.NodePublishVolumeRequest) {
		r.Secrets = map[string]string{"HF_TOKEN": " \n", "token": "hf_\x1bx"}
		r.VolumeContext["include"], r.VolumeContext["exclude"] = "*.json,[!a]\n", "\\"
		r.VolumeContext["layout"], r.VolumeContext["revision"] = "hub-cache", "refs/pr/1"
	})
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r spec.NodePublishVolumeRequest
		if proto.Unmarshal(data, &r) != nil {
			return
		}
		got, err := parsePublish(&r, DefaultDriver)
		if err != nil {
			wantCode(t, err, codes.InvalidArgument)
			wantFit(t, status.Convert(err).Message())
			for _, secret := range r.GetSecrets() {
				if len(secret) > 8 && strings.Contains(err.Error(), secret) && !strings.Contains(unsecret(&r), secret) {
					t.Errorf("secret %q in %v", secret, err)
				}
			}
			return
		}
		if strings.ContainsFunc(got.GetToken(), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Errorf("token %q", got.GetToken())
		}
		if got.GetVolume().GetId() != r.GetVolumeId() || got.GetVolume().GetTargetPath() != r.GetTargetPath() {
			t.Errorf("another volume: %v", got.GetVolume())
		}
		if _, err := proto.Marshal(got); err != nil { // a string that is not UTF-8 cannot be sent
			t.Errorf("cannot be sent to the agent: %v", err)
		}
	})
}

// unsecret is the request without its secrets, in which a text may be by chance.
func unsecret(r *spec.NodePublishVolumeRequest) string {
	r = proto.CloneOf(r)
	r.Secrets = nil
	_, err := parsePublish(r, DefaultDriver)
	if err != nil {
		return err.Error()
	}
	return ""
}

// noMounts is a kernel on which nothing is mounted. It writes down what is asked of it.
type noMounts struct{ mounted, unmounted []string }

func (m *noMounts) Mount(s mount.Spec) error {
	m.mounted = append(m.mounted, s.View)
	return nil
}

func (m *noMounts) Unmount(target string) error {
	m.unmounted = append(m.unmounted, target)
	return nil
}

func (m *noMounts) Lookup(string) (mount.Info, bool, error) { return mount.Info{}, false, nil }
func (m *noMounts) Mounts() ([]mount.Info, error)           { return nil, nil }

// fuzzed is a node whose agent answers with these.
func fuzzed(t *testing.T, acquire *agentpb.AcquireResponse, pins *agentpb.PinsResponse) (*node, *noMounts) {
	t.Helper()
	mounts := &noMounts{}
	s, err := New(Config{NodeID: "n", Socket: "/run/csi.sock", Mounter: mounts, Agent: answers{acquire: acquire, pins: pins}})
	must(t, err)
	return s.node, mounts
}

// answers is an agent that always gives the same.
type answers struct {
	acquire *agentpb.AcquireResponse
	pins    *agentpb.PinsResponse
}

func (a answers) Acquire(context.Context, *agentpb.AcquireRequest, ...grpc.CallOption) (*agentpb.AcquireResponse, error) {
	return a.acquire, nil
}

func (a answers) Release(context.Context, *agentpb.ReleaseRequest, ...grpc.CallOption) (*agentpb.ReleaseResponse, error) {
	return &agentpb.ReleaseResponse{}, nil
}

func (a answers) Pins(context.Context, *agentpb.PinsRequest, ...grpc.CallOption) (*agentpb.PinsResponse, error) {
	return a.pins, nil
}

func FuzzAgentsAnswer(f *testing.F) {
	for _, m := range []proto.Message{
		ready(), waitingFor(progress), refusing(agentpb.Refused_NOT_FOUND, "org/name: no such repository"), refusing(77, ""),
		waitingFor("\x1b[2J\u202e" + strings.Repeat("é", 500)), over(waitingFor("")), &agentpb.AcquireResponse{},
		&agentpb.AcquireResponse{Result: &agentpb.AcquireResponse_Ready{Ready: &agentpb.Ready{
			View: "views/../../etc/root", Empty: "/", Bind: true, Commit: "\x00", Notice: strings.Repeat("n\r", 1000), FetchedBytes: -1,
		}}},
	} {
		f.Add(encoded(m))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var answer agentpb.AcquireResponse
		if proto.Unmarshal(data, &answer) != nil {
			return
		}
		n, mounts := fuzzed(t, &answer, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := n.publish(ctx, publishRequest("vol", somewhere))
		if err != nil {
			wantFit(t, status.Convert(err).Message())
			wantFit(t, err.Error())
		}
		for _, view := range mounts.mounted {
			if parts := strings.Split(view, "/"); len(parts) != 3 || parts[0] != "views" || parts[2] != "root" || strings.Trim(parts[1], ".") == "" {
				t.Errorf("asked to mount %q", view)
			}
		}
		heard, _ := n.agent.Acquire(t.Context(), &agentpb.AcquireRequest{})
		wantFit(t, heard.GetReady().GetNotice())
		wantFit(t, heard.GetReady().GetCommit())
	})
}

func FuzzAgentsPins(f *testing.F) {
	f.Add(encoded(&agentpb.PinsResponse{}))
	f.Add(encoded(&agentpb.PinsResponse{
		Volumes: []*agentpb.Volume{{Id: "vol", TargetPath: somewhere}, {Id: "", TargetPath: "/"}, {Id: "\x00", TargetPath: "../.."},
			{Id: "v", TargetPath: "/pods/x/volumes/kubernetes.io~csi/y/mount"}, {TargetPath: "//pods/./volumes/kubernetes.io~csi//mount"}},
		Unreadable: []string{nameOf("vol", somewhere), "", "../../etc", strings.Repeat("F", 64)},
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var pins agentpb.PinsResponse
		if proto.Unmarshal(data, &pins) != nil {
			return
		}
		n, mounts := fuzzed(t, nil, &pins)
		must(t, n.reconcile(t.Context()))
		if len(mounts.mounted)+len(mounts.unmounted) > 0 {
			t.Errorf("asked to mount %q and to unmount %q", mounts.mounted, mounts.unmounted)
		}
	})
}

func FuzzFit(f *testing.F) {
	for _, seed := range []string{"", "plain", "a\nb", "\x1b[31m", "\xff\xfe", strings.Repeat("é", maxText), strings.Repeat("x", maxText-1) + "é", "\u2028\u202e\u0085"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := fit(text)
		wantFit(t, got)
		if again := fit(got); again != got && len(got) <= maxText {
			t.Errorf("%q is made %q", got, again)
		}
	})
}
