package csi

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/agentrpc"
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
