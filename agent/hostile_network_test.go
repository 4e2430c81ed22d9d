package agent_test

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// A redirect of content may leave the Hub, but not for where this node's own services
// or its cloud's metadata answer. The test runs where they do: in a network of its own
// that has the metadata address.
func TestHostileRedirectsReachNoMetadataService(t *testing.T) {
	const env, metadata = "BALLAST_TEST_METADATA", "169.254.169.254:80"
	if os.Getenv(env) == "" {
		inNetwork(t, env, "ip link set lo up && ip address add 169.254.169.254/32 dev lo && ip address add 100.100.100.200/32 dev lo && ip address add fe80::1/64 dev lo")
		return
	}
	l, err := net.Listen("tcp", metadata)
	must(t, err)
	var asked atomic.Int32
	service := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Write(whole)
	})}
	served := make(chan error)
	go func() { served <- service.Serve(l) }()
	reached, err := http.DefaultTransport.RoundTrip(must1(http.NewRequest(http.MethodGet, "http://"+metadata, nil)))
	must(t, err)
	reached.Body.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()

	var rows []hostileRow
	for _, c := range []struct{ name, location, says string }{
		{"by address", "http://169.254.169.254/latest/meta-data/", "169.254.169.254 is a link-local address"},
		{"by address, mapped", "http://[::ffff:169.254.169.254]/", "169.254.169.254 is a link-local address"},
		{"by address, translated", "http://[64:ff9b::a9fe:a9fe]/", "169.254.169.254 is a link-local address"},
		{"by number", "http://2852039166/", "off limits"},
		{"by octal digits", "http://0251.0376.0251.0376/", "off limits"},
		{"by a short form", "http://0xa9.16689662/", "off limits"},
		{"by a user's name", "http://hub@169.254.169.254:80/", "169.254.169.254 is a link-local address"},
		{"of Alibaba", "http://100.100.100.200/", "100.100.100.200 is a cloud metadata address"},
		{"of this link", "http://[fe80::1%25lo]/", "fe80::1 is a link-local address"},
		{"of any", "http://0.0.0.0/", "unspecified"},
	} {
		redirect := func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", c.location)
			w.WriteHeader(http.StatusFound)
		}
		says := []string{"model.safetensors", c.says}
		rows = append(rows,
			hostileRow{name: c.name, repo: gives(redirect), refused: fetcher.ErrOffLimits, says: says},
			hostileRow{name: c.name + ", located", refused: fetcher.ErrOffLimits, says: says, repo: func(e *evil) {
				givesPieces(redirect)(e)
				proved := false
				e.on[onHead] = func(w http.ResponseWriter, r *http.Request) { // the first one proves access
					if proved {
						redirect(w, r)
						return
					}
					proved = true
					e.serve(w, r, "model.safetensors")
				}
			}})
	}
	runTogether(t, time.Second, rows)
	if n := asked.Load(); n != 1 {
		t.Errorf("the metadata service was asked %d times by the agent", n-1)
	}
	service.Close()
	<-served
}

// inNetwork runs the test again, with env set, in a network namespace of its own that
// setup, a shell's command, has prepared.
func inNetwork(t *testing.T, env, setup string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network of one's own needs root")
	}
	cmd := exec.Command("sh", "-c", setup+` && exec "$@"`, "sh", must1(os.Executable()), "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", env+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case !strings.Contains(string(out), "=== RUN"):
		t.Skipf("no network of one's own is to be had: %v: %s", err, out)
	case err != nil || !strings.Contains(string(out), "\nPASS"):
		t.Errorf("in a network of its own: %v\n%s", err, out)
	default:
		t.Logf("%s", out)
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
