package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// hfdCommand is a tool of this module.
const hfdCommand = "github.com/matrixhub-ai/hfd/cmd/hfd"

// startLimit is how long hfd may take until it listens.
const startLimit = 30 * time.Second

// Build compiles hfd, at the version that go.mod names, to the file path. It must run
// in a directory of this module.
func Build(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, hfdCommand).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", hfdCommand, err, out)
	}
	return nil
}

// hfd is the process behind the proxy, on a loopback address of its own.
type hfd struct {
	url    *url.URL
	client *http.Client
	kill   context.CancelFunc
	ended  chan struct{} // closed when the process has ended
	err    error         // why it did; read after ended
}

func startHFD(ctx context.Context, cfg Config) (*hfd, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	cmd := exec.CommandContext(life, cfg.HFD, "-addr", address, "-ssh-addr", "", "-data", cfg.Dir)
	cmd.Stdout, cmd.Stderr = cfg.Output, cfg.Output
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null") // it runs git
	h := &hfd{
		url: &url.URL{Scheme: "http", Host: address}, kill: kill, ended: make(chan struct{}),
		// Nobody asks for compression that the client did not ask for.
		client: &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}},
	}
	if err := h.run(cmd); err != nil {
		kill()
		return nil, err
	}
	err = h.listening(ctx)
	if err == nil {
		err = h.putEmpty(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// run starts the process, and closes h.ended when it has ended. It dies with us, so that
// a test that panics leaves none behind; the kernel goes by the thread that started it,
// which is therefore kept.
func (h *hfd) run(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(h.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			h.err = cmd.Wait()
		}
	}()
	return <-started
}

// putEmpty stores the empty LFS object. hfd takes an empty file that is kept in git for
// a pointer to it, and would say that the file is not there.
func (h *hfd) putEmpty(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, h.url.String()+"/objects/"+emptySHA256, http.NoBody)
	if err != nil {
		return err
	}
	return h.do(req, nil)
}

// freeAddress is one that nobody listens on now; hfd can take none by itself.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// listening waits until the process does.
func (h *hfd) listening(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("tcp", h.url.Host); err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-h.ended:
			return errors.New("hfd ended before it listened")
		case <-ctx.Done():
			return fmt.Errorf("hfd does not listen on %s: %w", h.url.Host, context.Cause(ctx))
		}
	}
}

// close kills the process, unless it ended by itself, which is an error.
func (h *hfd) close() error {
	defer h.client.CloseIdleConnections()
	select {
	case <-h.ended:
		return fmt.Errorf("hfd ended by itself: %w", h.err)
	default:
	}
	h.kill()
	<-h.ended
	return nil
}

// errStatus is an answer of hfd that is no success.
type errStatus struct {
	status int
	text   string
}

func (e *errStatus) Error() string { return fmt.Sprintf("hfd answered %d: %s", e.status, e.text) }

// do sends a request, body and all, and decodes the JSON that comes into answer,
// unless that is nil.
func (h *hfd) do(req *http.Request, answer any) error {
	res, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		return &errStatus{res.StatusCode, strings.TrimSpace(string(text))}
	}
	if answer == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	return json.NewDecoder(res.Body).Decode(answer)
}

// Why hfd gave no commit.
var (
	errNoRepo     = errors.New("there is no such repository")
	errNoRevision = errors.New("there is no such revision")
)

// commit asks for the commit that rev, as escaped in a URL, stands for.
func (h *hfd) commit(ctx context.Context, repo, rev string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url.String()+apiPath(repo)+"/revision/"+rev, nil)
	if err != nil {
		return "", err
	}
	var info struct {
		SHA string `json:"sha"`
	}
	err = h.do(req, &info)
	var refused *errStatus
	switch {
	case errors.As(err, &refused) && refused.status == http.StatusNotFound:
		return "", errNoRepo
	case errors.As(err, &refused), err == nil && info.SHA == "": // 500, mostly
		return "", errNoRevision
	}
	return info.SHA, err
}

// apiPath is where repo ("org/name" or "datasets/org/name") is below the endpoint.
func apiPath(repo string) string {
	if strings.HasPrefix(repo, "datasets/") {
		return "/api/" + repo
	}
	return "/api/models/" + repo
}
