package csi

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/agentrpc"
	"github.com/ballast-csi/ballast/csi/mount"
)

// Here the agent is broken into: it owns the cache directory and the directory of its
// socket, has the right uid, and answers whatever it likes.

// bytesOnly is a codec of messages that are bytes already, and need not be messages.
type bytesOnly struct{}

func (bytesOnly) Name() string { return "proto" }

func (bytesOnly) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (bytesOnly) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// hostile is how the agent answers a call of method, whose request has been read.
type hostile func(method string, stream grpc.ServerStream) error

// broken makes a bench whose agent is hostile, over its socket.
func broken(t *testing.T) (b *bench, behave func(hostile)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	behaviour := make(chan hostile, 1)
	server := grpc.NewServer(grpc.ForceServerCodec(bytesOnly{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		now := <-behaviour
		behaviour <- now
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		method, _ := grpc.MethodFromServerStream(stream)
		return now(filepath.Base(method), stream)
	}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := agentrpc.Dial(path, os.Getuid())
	must(t, err)
	b = newBench(t, func(c *Config) { c.Agent = agentpb.NewAgentClient(conn) })
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		must(t, <-served)
	})
	behaviour <- saying(ready())
	return b, func(h hostile) {
		<-behaviour
		behaviour <- h
	}
}

// sending answers Acquire with these bytes, and everything else as an honest agent would
// that has no pin.
func sending(answer []byte) hostile {
	return func(method string, stream grpc.ServerStream) error {
		if method != "Acquire" {
			answer := []byte{}
			return stream.SendMsg(&answer)
		}
		return stream.SendMsg(&answer)
	}
}

func saying(m proto.Message) hostile {
	bytes, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return sending(bytes)
}

// field is a field of a message that holds these bytes.
func field(number protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), content)
}

// A Ready whose view and empty are these bytes, as UTF-8 or not.
func readyOf(view, empty string) []byte {
	return field(1, append(field(1, []byte(view)), field(2, []byte(empty))...))
}

// state is what no answer may change: all that is mounted, and what is outside.
func (b *bench) state(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	all := []string{string(mounts)}
	must(t, filepath.WalkDir(filepath.Join(b.dir, "kubelet"), func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	}))
	return strings.Join(all, "\n")
}

// publishes makes one call, and checks that its error is fit to print.
func (b *bench) publishes(t *testing.T, target string, deadline time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	_, err := b.node.NodePublishVolume(ctx, publishRequest("vol", target))
	text := status.Convert(err).Message()
	bad := func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }
	if len(text) > maxText+3 || strings.ContainsFunc(text, bad) || strings.Contains(text, testToken) {
		t.Errorf("%d bytes: %.200q", len(text), text)
	}
	return err
}

func TestABrokenAgentsAnswersMountNothingAndChangeNothing(t *testing.T) {
	huge := strings.Repeat("x", 1_000_000)
	for name, answer := range map[string]hostile{
		// Views that are none.
		"nothing":                    sending(nil),
		"a Ready that names nothing": sending(readyOf("", "")),
		"the cache itself":           sending(readyOf(".", testEmpty)),
		"above the cache":            sending(readyOf("..", testEmpty)),
		"above it, by way of a View": sending(readyOf("views/../../kubelet/root", testEmpty)),
		"an absolute path":           sending(readyOf("/etc", testEmpty)),
		"an absolute path of a View": sending(readyOf("/"+testView, testEmpty)),
		"a NUL":                      sending(readyOf("views/v1\x00/root", testEmpty)),
		"no UTF-8":                   sending(readyOf("views/\xff\xfe/root", testEmpty)),
		"a name of options":          sending(readyOf("views/v1,upperdir=x/root", testEmpty)),
		"a name of layers":           sending(readyOf("views/v1:v2/root", testEmpty)),
		"a name with a backslash":    sending(readyOf(`views/v1\:/root`, testEmpty)),
		"a name of 5,000 bytes":      sending(readyOf("views/"+huge[:5_000]+"/root", testEmpty)),
		"a name of 50,000 bytes":     sending(readyOf("views/"+huge[:50_000]+"/root", testEmpty)),
		"a link":                     sending(readyOf("views/link/root", testEmpty)),
		"a link to /etc":             sending(readyOf("views/etc/root", testEmpty)),
		"a FIFO":                     sending(readyOf("views/fifo/root", testEmpty)),
		"a socket":                   sending(readyOf("views/socket/root", testEmpty)),
		"a file":                     sending(readyOf("views/file/root", testEmpty)),
		"a device":                   sending(readyOf("views/device/root", testEmpty)),
		"another file system":        sending(readyOf("views/tmpfs/root", testEmpty)),
		"a mount of /etc":            sending(readyOf("views/bind/root", testEmpty)),
		"/proc":                      sending(readyOf("views/proc/root", testEmpty)),
		"an empty one above":         sending(readyOf(testView, "..")),
		"an empty one that is /":     sending(readyOf(testView, "/")),
		"an empty one behind a link": sending(readyOf(testView, "views/etc/root")),
		"an empty one that is not":   sending(readyOf(testView, "views/other/root")),
		"an empty one with options":  sending(readyOf(testView, testEmpty+",upperdir=x")),
		"an empty one of 1 MB":       sending(readyOf(testView, huge)),
		// Answers that are none.
		"garbage":                         sending([]byte("\xff\xff\xff\xff garbage")),
		"a result of a later version":     sending(field(99, []byte("x"))),
		"a Ready cut in the middle":       sending(readyOf(testView, testEmpty)[:8]),
		"fields without end":              sending([]byte(strings.Repeat("\x0b", 50_000))),
		"1 MB":                            saying(waitingFor(huge)),
		"300 MB":                          sending(make([]byte, 300_000_000)),
		"an answer, and another":          again(2),
		"answers without end":             again(1_000_000),
		"headers of 1 MB":                 headers(huge),
		"no answer":                       func(_ string, s grpc.ServerStream) error { <-s.Context().Done(); return nil },
		"no answer but an OK":             func(string, grpc.ServerStream) error { return nil },
		"an error that says OK":           func(string, grpc.ServerStream) error { return status.Error(codes.OK, huge) },
		"an error with a text of 1 MB":    func(string, grpc.ServerStream) error { return status.Error(codes.PermissionDenied, huge) },
		"an error with a code of its own": func(string, grpc.ServerStream) error { return status.Error(4711, "x") },
		// Texts.
		"progress that a terminal obeys": saying(waitingFor("\x1b[2J\x1b]0;title\a\r\b 42% \u202egnol \u009b31m\u2028 " + testView)),
		"progress of 60,000 characters":  saying(waitingFor(huge[:60_000])),
		"progress of 20,000 emoji":       saying(waitingFor(strings.Repeat("😀", 15_000))),
		"a refusal of 60,000 characters": saying(refusing(agentpb.Refused_DENIED, huge[:60_000])),
		"a refusal of a later version":   saying(refusing(1<<30, "\x1b[31m")),
		"a refusal with a forged table":  saying(refusing(agentpb.Refused_INVALID, "\x00\x01\x02\x7f\u0085")),
	} {
		t.Run(name, func(t *testing.T) {
			b, behave := broken(t)
			b.litter(t)
			target := b.target(t, "pod-1")
			before := b.state(t)
			behave(answer)
			if err := b.publishes(t, target, 300*time.Millisecond); err == nil {
				t.Error("it was published")
			} else {
				t.Logf("%.120v", err)
			}
			if after := b.state(t); after != before {
				t.Errorf("changed:\n%s\nit was\n%s", after, before)
			}
			behave(saying(ready())) // as if nothing had been
			if err := b.publishes(t, target, time.Minute); err != nil {
				t.Errorf("the next, honest answer: %v", err)
			}
		})
	}
}

// again answers Acquire many times in one call.
func again(times int) hostile {
	return func(_ string, stream grpc.ServerStream) error {
		answer := readyOf(testView, testEmpty)
		for range times {
			if err := stream.SendMsg(&answer); err != nil {
				return err
			}
		}
		return nil
	}
}

func headers(text string) hostile {
	return func(_ string, stream grpc.ServerStream) error {
		stream.SetTrailer(metadata.Pairs("x", text))
		return stream.SendHeader(metadata.Pairs("x", text))
	}
}

// litter fills views with what an agent can make of it, and with what it cannot.
func (b *bench) litter(t *testing.T) {
	t.Helper()
	at := func(name string) string {
		path := filepath.Join(b.cfg.CacheDir, "views", name)
		must(t, os.MkdirAll(path, 0o755))
		return filepath.Join(path, "root")
	}
	must(t, os.Symlink("v1", filepath.Join(b.cfg.CacheDir, "views/link")))
	must(t, os.Symlink("/etc", at("etc")))
	must(t, unix.Mkfifo(at("fifo"), 0o666))
	must(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o666, 0))
	must(t, os.WriteFile(at("file"), nil, 0o666))
	must(t, os.Mkdir(at("other"), 0o755))
	must(t, os.WriteFile(filepath.Join(at("other"), "another tenant's"), nil, 0o444))
	if err := unix.Mknod(at("device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Logf("no device can be made here: %v", err)
	}
	for name, mount := range map[string]func(target string) error{
		"tmpfs": func(target string) error { return unix.Mount("tmpfs", target, "tmpfs", 0, "") },
		"bind":  func(target string) error { return unix.Mount("/etc", target, "", unix.MS_BIND|unix.MS_REC, "") },
		"proc":  func(target string) error { return unix.Mount("/proc", target, "", unix.MS_BIND|unix.MS_REC, "") },
	} {
		target := at(name)
		must(t, os.Mkdir(target, 0o755))
		must(t, mount(target))
		t.Cleanup(func() { must(t, unix.Unmount(target, unix.MNT_DETACH)) })
	}
}

func TestABrokenAgentsAnswerIsBoundedBeforeItIsRead(t *testing.T) {
	b, behave := broken(t)
	behave(func(_ string, stream grpc.ServerStream) error {
		answer := make([]byte, 2*maxPins)
		return stream.SendMsg(&answer)
	})
	_, acquire := b.node.agent.Acquire(t.Context(), &agentpb.AcquireRequest{})
	_, release := b.node.agent.Release(t.Context(), &agentpb.ReleaseRequest{})
	_, pins := b.node.agent.Pins(t.Context(), &agentpb.PinsRequest{})
	for method, answer := range map[string]struct {
		err error
		max int
	}{"Acquire": {acquire, maxAnswer}, "Release": {release, maxAnswer}, "Pins": {pins, maxPins}} {
		if want := fmt.Sprintf("larger than max (%d vs. %d)", 2*maxPins, answer.max); answer.err == nil || !strings.Contains(answer.err.Error(), want) {
			t.Errorf("%s: %v", method, answer.err)
		}
	}
}

func TestABrokenAgentThatNeverReleasesKeepsNoPodAlive(t *testing.T) {
	for name, release := range map[string]hostile{
		"an error": func(string, grpc.ServerStream) error { return status.Error(codes.Internal, "never\x1b") },
		"no answer": func(_ string, s grpc.ServerStream) error {
			<-s.Context().Done()
			return nil
		},
		"300 MB": func(_ string, s grpc.ServerStream) error {
			answer := make([]byte, 300_000_000)
			return s.SendMsg(&answer)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, behave := broken(t)
			target := b.target(t, "pod-1")
			must(t, b.publishes(t, target, time.Minute))
			refuse := saying(refusing(agentpb.Refused_DENIED, "no"))
			behave(func(method string, stream grpc.ServerStream) error {
				if method == "Release" {
					return release(method, stream)
				}
				return refuse(method, stream)
			})
			start := time.Now()
			_, err := b.node.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
			must(t, err)
			b.wantMounted(t, target, false)
			wantCode(t, b.publishes(t, target, time.Minute), codes.Unavailable) // final only once the pin is gone
			if took := time.Since(start); took > 2*undoTime+2*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

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
	for i := range 1_500 {
		long.Volumes = append(long.Volumes, &agentpb.Volume{Id: "v", TargetPath: fmt.Sprintf("%s/gone-%d/volumes/kubernetes.io~csi/m/mount", pods, i)})
		long.Unreadable = append(long.Unreadable, fmt.Sprintf("%064x", i))
	}
	million := &agentpb.PinsResponse{Unreadable: make([]string, 1_000_000)}

	before := b.state(t)
	for name, list := range map[string]*agentpb.PinsResponse{
		"odd ones": pins, "none, though one is mounted": {}, "120,000 empty ones": many, "3,000": long, "a million": million,
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
