package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/fetcher"
)

// Addresses of this machine that stand for pods of the node; all others are strangers'.
const (
	podA     = "127.0.0.2" // of namespace team-a
	podB     = "127.0.0.3" // of namespace team-b
	stranger = "127.0.0.1"
)

func admitPods(from netip.Addr) (namespace string, ok bool) {
	namespace, ok = map[string]string{podA: "team-a", podB: "team-b"}[from.Unmap().String()]
	return namespace, ok
}

// diary is a logger and all that it has said, at any level and with all its fields.
type diary struct {
	*zap.Logger
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func newDiary() *diary {
	d := &diary{}
	encoder := zapcore.NewJSONEncoder(zap.NewDevelopmentEncoderConfig())
	d.Logger = zap.New(zapcore.NewCore(encoder, zapcore.AddSync(d), zap.DebugLevel))
	return d
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

// startHubAPI serves lib on loopback for podA and podB until the test ends, and returns
// its address.
func startHubAPI(t *testing.T, f hubAPIConfig, lib hubapi.Library, log *zap.Logger) (address string, stop func()) {
	t.Helper()
	f.Address = "127.0.0.1:0"
	h, err := f.open(lib, admitPods, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the API ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return h.listener.Addr().String(), stop
}

// from returns a client whose connections come from an address, each for one request.
func from(t *testing.T, address string) *http.Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// asked is a Library that remembers who asked, and has nothing.
type asked struct {
	mu    sync.Mutex // guards who
	who   []hubapi.Caller
	block chan struct{} // asking waits for it to be closed
}

func (a *asked) note(ctx context.Context, who hubapi.Caller) error {
	a.mu.Lock()
	a.who = append(a.who, who)
	a.mu.Unlock()
	if a.block != nil {
		select {
		case <-a.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fetcher.ErrNotFound
}

func (a *asked) callers() []hubapi.Caller {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.who
}

func (a *asked) Manifest(ctx context.Context, who hubapi.Caller, _ fetcher.Repo, _ fetcher.Ref) (*fetcher.Manifest, error) {
	return nil, a.note(ctx, who)
}

func (a *asked) Refs(ctx context.Context, who hubapi.Caller, _ fetcher.Repo) (map[string]fetcher.Commit, error) {
	return nil, a.note(ctx, who)
}

func (a *asked) Open(ctx context.Context, who hubapi.Caller, _ fetcher.Revision, _ fetcher.File) (io.ReadSeekCloser, error) {
	return nil, a.note(ctx, who)
}

func TestTheHubAPIIsForThisNodesPodsAlone(t *testing.T) {
	log, lib := newDiary(), &asked{}
	address, _ := startHubAPI(t, hubAPIConfig{}, lib, log.Logger)
	ask := func(client *http.Client, method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader("paths=hf_body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer hf_secret")
		for _, name := range []string{"X-Forwarded-For", "X-Real-IP", "Forwarded", "Client-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP"} {
			req.Header.Set(name, map[bool]string{true: podA, false: "for=" + podA}[name != "Forwarded"])
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	const path = "/org/name/resolve/main/config.json?token=hf_query"
	for _, c := range []struct{ method, path string }{
		{"GET", path}, {"POST", "/api/models/org/name/paths-info/main"}, {"GET", "/api/whoami-v2"}, {"DELETE", "/hf_path/%00"},
	} {
		status, body := ask(from(t, stranger), c.method, c.path)
		if status != http.StatusForbidden || !strings.Contains(body, `{"error":"`) || !strings.Contains(body, "serves only the pods of its own node") {
			t.Errorf("a stranger's %s %s: %d %s", c.method, c.path, status, body)
		}
	}
	if who := lib.callers(); len(who) != 0 {
		t.Errorf("a stranger's question reached the library: %v", who)
	}
	for pod, namespace := range map[string]string{podA: "team-a", podB: "team-b"} {
		if status, body := ask(from(t, pod), "GET", path); status != http.StatusNotFound {
			t.Errorf("a pod's question: %d %s", status, body)
		}
		who := lib.callers()
		if want := (hubapi.Caller{Token: fetcher.NewSecret("hf_secret"), Namespace: namespace}); who[len(who)-1] != want {
			t.Errorf("asked by %+v of namespace %s", who[len(who)-1], namespace)
		}
	}
	if said := log.String(); strings.Contains(said, "hf_") || !strings.Contains(said, "team-b") {
		t.Errorf("the log, which should have no token and who asked:\n%s", said)
	}
}

func TestHubAPIFlagsThatMakeNoSense(t *testing.T) {
	for name, c := range map[string]struct {
		flags hubAPIConfig
		admit admission
		want  string
	}{
		"no --kube":          {hubAPIConfig{Address: "127.0.0.1:0"}, nil, "--hub-address needs --kube"},
		"a certificate only": {hubAPIConfig{Address: "127.0.0.1:0", TLSCert: "tls.crt"}, admitPods, "give both"},
		"a key only":         {hubAPIConfig{Address: "127.0.0.1:0", TLSKey: "tls.key"}, admitPods, "give both"},
		"no address":         {hubAPIConfig{TLSCert: "tls.crt", TLSKey: "tls.key"}, admitPods, "--hub-address"},
		"no such file":       {hubAPIConfig{Address: "127.0.0.1:0", TLSCert: "/none/tls.crt", TLSKey: "/none/tls.key"}, admitPods, "/none/tls.crt"},
		"no address at all":  {hubAPIConfig{Address: "nonsense"}, admitPods, "--hub-address"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := c.flags.open(&asked{}, c.admit, zap.NewNop())
			if err == nil || !errors.As(err, &usageError{}) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v; want a usage error that says %q", h, err, c.want)
			}
		})
	}
	if h, err := (hubAPIConfig{}).open(&asked{}, nil, zap.NewNop()); h != nil || err != nil {
		t.Errorf("without flags: %v, %v", h, err)
	}
}

// dial opens a connection from an address and says whether it was let in: one that is
// not is closed before it has said anything.
func dial(t *testing.T, local, to string) (net.Conn, bool) {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err = fmt.Fprintf(conn, "GET /api/whoami-v2 HTTP/1.1\r\nHost: h\r\n\r\n"); err == nil {
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	}
	return conn, err == nil
}

func TestNoPodsConnectionsKeepAnotherOut(t *testing.T) {
	address, _ := startHubAPI(t, hubAPIConfig{}, &asked{}, zap.NewNop())
	var held []net.Conn
	for range connectionsAPod {
		conn, ok := dial(t, podA, address)
		if !ok {
			t.Fatalf("a pod has %d connections; want %d", len(held), connectionsAPod)
		}
		held = append(held, conn)
	}
	if _, ok := dial(t, podA, address); ok {
		t.Errorf("a pod has more than %d connections", connectionsAPod)
	}
	if _, ok := dial(t, podB, address); !ok {
		t.Error("another pod is kept out")
	}
	if _, ok := dial(t, stranger, address); !ok {
		t.Error("a stranger is not told what this is")
	}
	held[0].Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, ok := dial(t, podA, address); ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the room of a connection that was closed is not free")
		}
	}
}

// TestStrangersTakeNoRoomOfThePods, whatever addresses they have.
func TestStrangersTakeNoRoomOfThePods(t *testing.T) {
	pods := netip.MustParsePrefix("10.1.0.0/16")
	c := newCrowd(nil, func(from netip.Addr) (string, bool) { return "ns", pods.Contains(from) })
	fill := func(network byte) (n int) { // from 250 addresses
		for i := range 250 * 2 * connectionsAPod {
			if c.enter(netip.AddrFrom4([4]byte{10, network, 0, byte(i % 250)})) {
				n++
			}
		}
		return n
	}
	one := netip.MustParseAddr("10.2.1.1")
	for n := range connectionsAStranger + 1 {
		if c.enter(one) != (n < connectionsAStranger) {
			t.Errorf("a stranger with %d connections", n)
		}
	}
	if n := fill(2); n != connectionsForAny-connectionsAStranger {
		t.Errorf("others have %d more", n)
	}
	if n := fill(1); n != connectionsInAll-connectionsForAny {
		t.Errorf("pods have %d connections beside them", n)
	}
	c.leave(one)
	if c.enter(one) {
		t.Error("a stranger is let into the pods' room")
	}
	if n := fill(1); n != 1 {
		t.Errorf("pods have %d of one that has become free", n)
	}
}

func TestWhatIsBeingAnsweredEndsWithTheProcess(t *testing.T) {
	lib := &asked{block: make(chan struct{})}
	address, stop := startHubAPI(t, hubAPIConfig{}, lib, zap.NewNop())
	status := make(chan int, 1)
	go func() {
		res, err := from(t, podA).Get("http://" + address + "/api/models/org/name")
		if err != nil {
			status <- 0
			return
		}
		res.Body.Close()
		status <- res.StatusCode
	}()
	for len(lib.callers()) == 0 {
		time.Sleep(time.Millisecond)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(lib.block) })
	stop()
	if got := <-status; got != http.StatusUnauthorized {
		t.Errorf("what was being answered: %d; want its own answer", got)
	}
}
