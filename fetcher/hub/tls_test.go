package hub_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	mathbig "math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// private is a Hub at https with a certificate of an authority of its own, and its CDN,
// which is the same server by another name.
type private struct {
	*hubtest.Hub
	*httptest.Server
	caFile string
}

// names are those of a Hub and of its CDN.
var names = map[string]string{"127.0.0.1": "localhost", "hub.test": "cdn.test"}

func newPrivate(t *testing.T) *private {
	t.Helper()
	p := &private{Hub: hubtest.New(t), caFile: filepath.Join(t.TempDir(), "ca.pem")}
	proxy := func(to string, edit func(*http.Response) error) http.Handler {
		behind := must[*url.URL](t)(url.Parse(to))
		return &httputil.ReverseProxy{
			Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(behind) },
			ModifyResponse: edit, Transport: &http.Transport{DisableKeepAlives: true}, ErrorLog: log.New(io.Discard, "", 0),
		}
	}
	cdn := proxy("http://"+p.CDNHost(), nil)
	home := proxy(p.Hub.URL(), func(res *http.Response) error {
		host, port, _ := strings.Cut(res.Request.Header.Get("X-Asked"), ":")
		if port != "" {
			port = ":" + port
		}
		at := strings.Replace(res.Header.Get("Location"), "http://"+p.CDNHost(), "https://"+names[host]+port, 1)
		res.Header.Set("Location", at)
		return nil
	})
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		if _, isHub := names[host]; isHub {
			r.Header.Set("X-Asked", r.Host)
			home.ServeHTTP(w, r)
			return
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("the CDN was sent the token")
		}
		cdn.ServeHTTP(w, r)
	}))
	p.TLS = &tls.Config{Certificates: []tls.Certificate{newCertificate(t, p.caFile)}}
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.StartTLS()
	t.Cleanup(p.Server.Close)
	return p
}

// newCertificate is one for all of names, and puts it into file.
func newCertificate(t *testing.T, file string) tls.Certificate {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: mathbig.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost", "hub.test", "cdn.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestAPrivateAuthoritysHubIsTrustedOnlyByItsFile(t *testing.T) {
	p := newPrivate(t)
	rev := serve(t, p.Hub, "org/name")
	p.AddToken("hf_sekrit")
	for name, file := range map[string]string{"without": "", "with": p.caFile} {
		c := must[*hub.Client](t)(hub.New(hub.Config{Endpoint: p.Server.URL, CAFile: file}))
		for what, err := range errorsOf(t, p.Hub, c, rev, "hf_sekrit") {
			if file != "" && err != nil || file == "" && (!fetcher.Unreachable(err) || !strings.Contains(err.Error(), "certificate")) {
				t.Errorf("%s its certificate: %s: %v", name, what, err)
			}
		}
		c.CloseIdle()
	}
}

func TestACertificateFileThatHoldsNoneIsRefusedAtStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	for text, want := range map[string]string{"": "holds none in PEM form", "hf_sekrit": "holds none", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n": "holds none", "absent": "no such file"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if text == "absent" {
			os.Remove(file)
		}
		if _, err := hub.New(hub.Config{CAFile: file}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "sekrit") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// tunnels is a proxy that connects whatever it is asked for to one address.
type tunnels struct {
	to string

	mu    sync.Mutex // guards asked
	asked []string
}

func (p *tunnels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host)
	p.mu.Unlock()
	if r.Method != http.MethodConnect || r.Header.Get("Authorization") != "" {
		http.Error(w, "a tunnel is all there is here", http.StatusBadRequest)
		return
	}
	far, err := net.Dial("tcp", p.to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer far.Close()
	w.WriteHeader(http.StatusOK)
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer near.Close()
	go func() {
		io.Copy(far, buffered)
		far.Close()
	}()
	io.Copy(near, far)
}

// takeAsked returns what the proxy was asked since, each once.
func (p *tunnels) takeAsked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	slices.Sort(asked)
	return slices.Compact(asked)
}

// The variables are read once a process: each case is one of its own, of this test.
func TestTheUsualVariablesNameTheProxy(t *testing.T) {
	if os.Getenv("BALLAST_TEST_CA") != "" {
		client := must[*hub.Client](t)(hub.New(hub.Config{Endpoint: "https://hub.test", CAFile: os.Getenv("BALLAST_TEST_CA")}))
		rev := fetcher.Revision{Repo: repoOf(t, "org/name"), Commit: commitOf(t, os.Getenv("BALLAST_TEST_COMMIT"))}
		token := fetcher.NewSecret("hf_sekrit")
		m := must[*fetcher.Manifest](t)(client.Manifest(t.Context(), rev, token))
		for _, f := range m.Files {
			if f.Path.String() == big {
				o := must[fetcher.Object](t)(client.Open(t.Context(), rev, f, token))
				wantBytes(t, o, 5, 1000, sample[big])
			}
		}
		client.CloseIdle()
		return
	}
	p := newPrivate(t)
	rev := serve(t, p.Hub, "org/name")
	p.AddToken("hf_sekrit")
	through := &tunnels{to: p.Listener.Addr().String()}
	proxy := httptest.NewServer(through)
	defer proxy.Close()
	for name, c := range map[string]struct {
		env  []string
		ok   bool
		want []string
	}{
		"HTTPS_PROXY":    {[]string{"HTTPS_PROXY=" + proxy.URL}, true, []string{"CONNECT cdn.test:443", "CONNECT hub.test:443"}},
		"https_proxy":    {[]string{"https_proxy=" + proxy.URL}, true, []string{"CONNECT cdn.test:443", "CONNECT hub.test:443"}},
		"NO_PROXY":       {[]string{"HTTPS_PROXY=" + proxy.URL, "NO_PROXY=.test"}, false, nil}, // a name that nobody has
		"HTTP_PROXY":     {[]string{"HTTP_PROXY=" + proxy.URL}, false, nil},
		"a part of them": {[]string{"HTTPS_PROXY=" + proxy.URL, "NO_PROXY=cdn.test"}, false, []string{"CONNECT hub.test:443"}},
	} {
		self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheUsualVariablesNameTheProxy$")
		self.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
			name, _, _ := strings.Cut(v, "=")
			return strings.HasSuffix(strings.ToUpper(name), "_PROXY")
		}), append(c.env, "BALLAST_TEST_CA="+p.caFile, "BALLAST_TEST_COMMIT="+rev.Commit.String())...)
		said, err := self.CombinedOutput()
		if asked := through.takeAsked(); (err == nil) != c.ok || !slices.Equal(asked, c.want) {
			t.Errorf("%s: the proxy was asked for %q, want %q; %v\n%s", name, asked, c.want, err, said)
		}
	}
}
