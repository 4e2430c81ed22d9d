package csi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

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
