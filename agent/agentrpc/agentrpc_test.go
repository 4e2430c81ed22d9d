package agentrpc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/agent/unixsock"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// connectAs, in the environment, makes the test binary connect to the socket it names
// and report whether it got an answer: a process of another uid needs a process.
const connectAs = "BALLAST_TEST_CONNECT"

func TestMain(m *testing.M) {
	if path := os.Getenv(connectAs); path != "" {
		conn, err := Dial(path, 0)
		if err == nil {
			_, err = agentpb.NewAgentClient(conn).Pins(context.Background(), &agentpb.PinsRequest{})
		}
		fmt.Println("answer:", status.Code(err))
		return
	}
	goleak.VerifyTestMain(m)
}

// start runs an agent that serves a socket, and returns the socket's path.
func start(t *testing.T, h *hubtest.Hub) (path string, local agentpb.AgentClient) {
	t.Helper()
	log := zaptest.NewLogger(t)
	client, err := hub.New(hub.Config{Endpoint: h.URL(), UserAgent: "ballast/test", Log: log, TokensOverHTTP: true})
	must(t, err)
	engine, err := fetcher.NewEngine(fetcher.EngineConfig{Log: log})
	must(t, err)
	a, err := agent.New(agent.Config{Store: storetest.Open(t), Hub: client, Sources: []fetcher.Source{client}, Engine: engine, Log: log, RetryEvery: 10 * time.Millisecond})
	must(t, err)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	path = filepath.Join(dir, "agent.sock")
	l, err := unixsock.Listen(path, log, os.Getuid())
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- Serve(ctx, l, a) }()
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, errors.Join(<-ended, <-ended))
		client.CloseIdle()
	})
	return path, Local(a)
}

// requestID is the part of a message that differs from one question to the next.
var requestID = regexp.MustCompile(` \(request [^)]*\)`)

func volume(id string) *agentpb.Volume {
	return &agentpb.Volume{Id: id, TargetPath: "/pods/" + id + "/mount"}
}

func TestBothAdaptorsGiveTheSameAnswers(t *testing.T) {
	h := hubtest.New(t)
	h.AddRepo("org/name", map[string][]byte{"config.json": []byte("{}"), "model.safetensors": make([]byte, 5000)})
	path, local := start(t, h)
	conn, err := Dial(path, os.Getuid())
	must(t, err)
	defer conn.Close()
	remote := agentpb.NewAgentClient(conn)

	ask := func(edit func(*agentpb.AcquireRequest)) *agentpb.AcquireRequest {
		r := &agentpb.AcquireRequest{Volume: volume("one"), Repo: "org/name", Revision: "main", Wait: durationpb.New(20 * time.Second)}
		edit(r)
		return r
	}
	for _, tc := range []struct {
		name   string
		edit   func(*agentpb.AcquireRequest)
		reason agentpb.Refused_Reason // UNKNOWN: ready
		says   string
	}{
		{"ready", func(*agentpb.AcquireRequest) {}, agentpb.Refused_UNKNOWN, ""},
		{"hub cache", func(r *agentpb.AcquireRequest) { r.Volume, r.Layout = volume("two"), agentpb.Layout_HUB_CACHE }, agentpb.Refused_UNKNOWN, ""},
		{"no volume id", func(r *agentpb.AcquireRequest) { r.Volume.Id = "" }, agentpb.Refused_INVALID, "id"},
		{"relative target", func(r *agentpb.AcquireRequest) { r.Volume.TargetPath = "x" }, agentpb.Refused_INVALID, "target"},
		{"bad repo", func(r *agentpb.AcquireRequest) { r.Repo = "../etc" }, agentpb.Refused_INVALID, "repository"},
		{"bad revision", func(r *agentpb.AcquireRequest) { r.Revision = "a..b" }, agentpb.Refused_INVALID, "revision"},
		{"bad pattern", func(r *agentpb.AcquireRequest) { r.Include = []string{""} }, agentpb.Refused_INVALID, "include"},
		{"layout of a later version", func(r *agentpb.AcquireRequest) { r.Layout = 99 }, agentpb.Refused_INVALID, "layout"},
		{"nothing selected", func(r *agentpb.AcquireRequest) { r.Volume, r.Include = volume("three"), []string{"*.gguf"} }, agentpb.Refused_INVALID, "include"},
		{"missing repo", func(r *agentpb.AcquireRequest) { r.Repo = "org/missing" }, agentpb.Refused_NOT_FOUND, "org/missing"},
		{"missing revision", func(r *agentpb.AcquireRequest) { r.Revision = "v9" }, agentpb.Refused_NOT_FOUND, "v9"},
		{"bad token", func(r *agentpb.AcquireRequest) { r.Repo, r.Token = "org/missing", "hf_unknown" }, agentpb.Refused_UNAUTHENTICATED, "token"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, err := local.Acquire(t.Context(), ask(tc.edit))
			must(t, err)
			b, err := remote.Acquire(t.Context(), ask(tc.edit))
			must(t, err)
			if ready := a.GetReady(); ready != nil {
				ready.FetchedBytes = 0 // the first one's Flight
			}
			for _, refused := range []*agentpb.Refused{a.GetRefused(), b.GetRefused()} {
				if refused != nil {
					refused.Message = requestID.ReplaceAllString(refused.Message, "")
				}
			}
			if !proto.Equal(a, b) {
				t.Errorf("in process: %v\nover the socket: %v", a, b)
			}
			if tc.reason == agentpb.Refused_UNKNOWN {
				if b.GetReady().GetView() == "" || len(b.GetReady().GetCommit()) != 40 {
					t.Errorf("got %v, want a view", b)
				}
				return
			}
			if r := b.GetRefused(); r.GetReason() != tc.reason || !strings.Contains(r.GetMessage(), tc.says) {
				t.Errorf("got %v, want %v that says %q", b, tc.reason, tc.says)
			}
		})
	}

	pins, err := remote.Pins(t.Context(), &agentpb.PinsRequest{})
	must(t, err)
	if len(pins.GetVolumes()) != 2 {
		t.Errorf("pins %v, want both volumes", pins)
	}
	for _, v := range pins.GetVolumes() {
		_, err := remote.Release(t.Context(), &agentpb.ReleaseRequest{Volume: v})
		must(t, err)
	}
	if pins, _ := local.Pins(t.Context(), &agentpb.PinsRequest{}); len(pins.GetVolumes()) != 0 {
		t.Errorf("pins %v after their release", pins)
	}
}

func TestAcquireAnswersWithProgressWhenItsWaitIsOver(t *testing.T) {
	h := hubtest.New(t)
	h.AddRepo("org/name", map[string][]byte{"model.safetensors": make([]byte, 5000)})
	defer h.Hold("org/name", "model.safetensors")()
	_, local := start(t, h)
	resp, err := local.Acquire(t.Context(), &agentpb.AcquireRequest{
		Volume: volume("one"), Repo: "org/name", Revision: "main", Wait: durationpb.New(300 * time.Millisecond)})
	must(t, err)
	w := resp.GetWaiting()
	if !strings.Contains(w.GetProgress(), "org/name@") || w.GetTotalBytes() != 5000 {
		t.Errorf("got %v, want progress of 5000 bytes", resp)
	}
}

func TestEveryOutcomeHasItsReason(t *testing.T) {
	for err, want := range map[error]agentpb.Refused_Reason{
		&fetcher.MismatchError{}:    agentpb.Refused_MISMATCH,
		fetcher.ErrGated:            agentpb.Refused_DENIED,
		fetcher.ErrForbidden:        agentpb.Refused_DENIED,
		store.ErrTooLarge:           agentpb.Refused_NO_SPACE,
		store.ErrPinned:             agentpb.Refused_INVALID,
		errors.New("disk on fire"):  agentpb.Refused_INTERNAL,
		fetcher.ErrRevisionNotFound: agentpb.Refused_NOT_FOUND,
	} {
		refused := &agent.RefusedError{Err: fmt.Errorf("org/name: %w", err), Advice: "do this"}
		got := outcome(refused).GetRefused()
		if got.GetReason() != want || got.GetMessage() != refused.Error() {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
	over := outcome(&agent.WaitingError{Progress: "p", Done: 1, Total: 2, Over: true}).GetWaiting()
	if !over.GetOver() || over.GetProgress() != "p" || over.GetDoneBytes() != 1 || over.GetTotalBytes() != 2 {
		t.Errorf("got %v", over)
	}
}

func TestProcessesOfOtherUsersAreRefusedAtBothEnds(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to start a process of another uid")
	}
	path, _ := start(t, hubtest.New(t))
	run := func(uid uint32) string {
		exe, err := os.ReadFile("/proc/self/exe")
		must(t, err)
		binary := filepath.Join(filepath.Dir(path), fmt.Sprintf("client-%d", uid))
		must(t, os.WriteFile(binary, exe, 0o755))
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), connectAs+"="+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		for dir := filepath.Dir(path); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
			must(t, os.Chmod(dir, 0o755))
		}
		out, err := cmd.CombinedOutput()
		must(t, err)
		return strings.TrimSpace(string(out))
	}
	if got := run(0); got != "answer: OK" {
		t.Errorf("root got %q", got)
	}
	if got := run(65534); got != "answer: Unavailable" {
		t.Errorf("another uid got %q, want no answer", got)
	}
	conn, err := Dial(path, 65534) // the server is ours, not 65534's
	must(t, err)
	defer conn.Close()
	_, err = agentpb.NewAgentClient(conn).Pins(t.Context(), &agentpb.PinsRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "uid") {
		t.Errorf("a server of another uid was talked to: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
