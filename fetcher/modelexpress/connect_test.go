package modelexpress_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

func TestURLs(t *testing.T) {
	for url, want := range map[string]string{
		"mx.dynamo:8001": "mx.dynamo:8001", "http://mx.dynamo:8080": "mx.dynamo:8080", "https://mx.example.com:8443/": "mx.example.com:8443 tls",
		"mx.dynamo": "mx.dynamo:8001", "http://mx": "mx:8001", "https://mx": "mx:443 tls", "10.0.0.1": "10.0.0.1:8001", "[fd00::1]:9": "[fd00::1]:9", "http://[fd00::1]": "[fd00::1]:8001",
		"": "", "mx:": "mx:8001", "mx:0": "", "mx:70000": "", "mx:x": "", "fd00::1": "", "mx/path": "", "http://mx/path": "", "http://mx?x=1": "", "mx?": "", "mx#f": "",
		"http://user:hunter2@mx": "", "user:hunter2@mx:8001": "", "grpc://mx:8001": "", "unix:///run/x": "", "dns:///mx:8001": "", "http://": "", ":8001": "", "http://:8001": "",
	} {
		got, err := modelexpress.ParseURL(url)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", url, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the password is told: %v", url, err)
		}
	}
}

func TestNewRefusesNegativeNumbers(t *testing.T) {
	for _, cfg := range []modelexpress.Config{{URL: "mx", Wait: -1}, {URL: "mx", Streams: -1}, {}} {
		if _, err := modelexpress.New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func (w *world) tokens() (list []string) {
	for _, c := range w.server.Calls("EnsureModelDownloaded") {
		list = append(list, c.Token)
	}
	return list
}

// The Hub's credential is not for this server; the operator's own token is, and is read
// again when kubelet has replaced it.
func TestTheTokenOfTheFileIsSentAndNoOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	put(t, file, []byte("first"))
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{TokenFile: file, UserAgent: "ballast/9"})
	w.client.Keep(time.Nanosecond)
	w.wantWhole("LICENSE")
	info := must(os.Stat(file))(t)
	put(t, file+".new", []byte("third")) // as long, and as old: another file
	if err := os.Chtimes(file+".new", info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	move(t, file+".new", file)
	w.wantWhole("LICENSE")
	put(t, file, []byte("fifth")) // the same file, of another time
	if err := os.Chtimes(file, info.ModTime(), info.ModTime().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.wantWhole("LICENSE")
	remove(t, file)
	w.wantWhole("LICENSE")
	if got := strings.Join(w.tokens(), " "); got != "first third fifth " {
		t.Errorf("tokens: %q", got)
	}
	for _, method := range []string{"EnsureModelDownloaded", "ListModelFiles", "StreamModelFiles"} {
		for _, c := range w.server.Calls(method) {
			for key, values := range c.Header {
				if strings.Contains(strings.Join(values, " "), "a-token-of-the-hub") {
					t.Errorf("%s: %s carries the Hub's token", method, key)
				}
			}
			if !strings.HasPrefix(c.UserAgent, "ballast/9 ") {
				t.Errorf("user agent %q", c.UserAgent)
			}
		}
	}
}

func TestAMissingTokenIsToldOnce(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{TokenFile: filepath.Join(t.TempDir(), "none"), Log: zap.New(core)})
	w.wantWhole("LICENSE")
	w.wantWhole("config.json")
	if logs.Len() != 1 {
		t.Errorf("told %d times", logs.Len())
	}
}

func TestDenials(t *testing.T) {
	for code, want := range map[codes.Code]struct {
		says  string
		calls int
	}{
		codes.Unauthenticated:  {"does not take this agent's token", 2}, // once more with what the file has by then
		codes.PermissionDenied: {"does not let this agent's service account in", 1},
		codes.InvalidArgument:  {"does not take the request", 1},
	} {
		file := filepath.Join(t.TempDir(), "token")
		put(t, file, []byte("token"))
		var calls atomic.Int32
		w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Auth: func(string) codes.Code { calls.Add(1); return code }}, modelexpress.Config{TokenFile: file})
		w.wantLasting("LICENSE", want.says)
		w.wantLasting("config.json", want.says) // remembered
		if int(calls.Load()) != want.calls {
			t.Errorf("%s: %d calls, want %d", code, calls.Load(), want.calls)
		}
	}
}

func TestATokenThatWasReplacedIsTriedAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	put(t, file, []byte("stale"))
	info := must(os.Stat(file))(t)
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Auth: func(token string) codes.Code {
		if token == "fresh" {
			return codes.OK
		}
		// The file looks the same, as on a file system that tells times badly.
		put(t, file, []byte("fresh"))
		if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
			t.Error(err)
		}
		return codes.Unauthenticated
	}}, modelexpress.Config{TokenFile: file})
	w.wantWhole("LICENSE")
}

// The backend of the token review is down.
func TestAnUnavailableTokenReviewIsTrouble(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Auth: func(string) codes.Code { return codes.Unavailable }}, modelexpress.Config{})
	w.wantUnreachable("LICENSE", "Unavailable")
}

func TestANobodyIsUnreachableAtOnceAndFoundWhenItComes(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	write(t, dir, "org/name", commit, sample())
	w := &world{t: t, rev: revision(t, "org/name", commit), files: sample(), client: newClient(t, modelexpress.Config{URL: "http://" + address})}
	began := time.Now()
	w.wantUnreachable("LICENSE", "connection refused")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	s := must(modelexpresstest.Start(modelexpresstest.Config{Release: "0.7.0", Address: address, Dir: dir, Offline: true}))(t)
	t.Cleanup(s.Close)
	eventually(t, "it is found", func() bool { _, err := w.read("LICENSE"); return err == nil })
}

// It takes connections and says nothing, as a black hole does for longer.
func TestAConnectionThatSaysNothingIsUnreachableSoon(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	var taken sync.WaitGroup
	taken.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	})
	t.Cleanup(func() { l.Close(); taken.Wait() })
	w := &world{t: t, rev: revision(t, "org/name", commit), files: sample(), client: newClient(t, modelexpress.Config{URL: l.Addr().String()})}
	began := time.Now()
	w.wantUnreachable("LICENSE", "")
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: func(c *chunk, stream chunkStream) error {
		if c.Offset > 0 {
			return stuck(stream)
		}
		return stream.Send(c)
	}}, modelexpress.Config{})
	c := must(modelexpress.New(modelexpress.Config{URL: w.server.Address}))(t)
	o := must(c.Open(t.Context(), w.rev, w.file("model.safetensors"), fetcher.Secret{}))(t)
	defer o.Close()
	time.AfterFunc(100*time.Millisecond, func() { c.Close() })
	if _, err := readRange(t, o, 0, 2<<20); !fetcher.Unreachable(err) {
		t.Errorf("%v", err)
	}
	if _, err := c.Open(t.Context(), w.rev, w.file("LICENSE"), fetcher.Secret{}); err == nil {
		t.Error("opened after Close")
	}
}
