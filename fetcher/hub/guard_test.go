package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestGuardForbidsEveryFormOfAnAddress(t *testing.T) {
	for address, class := range map[string]string{
		"169.254.169.254":          "link-local",
		"169.254.170.2":            "link-local",
		"fe80::a9fe:a9fe%lo":       "link-local",
		"::ffff:169.254.169.254":   "link-local",
		"64:ff9b::169.254.169.254": "link-local",
		"0.0.0.0":                  "unspecified",
		"0.1.2.3":                  "unspecified",
		"::":                       "unspecified",
		"127.0.0.1":                "loopback",
		"127.8.8.8":                "loopback",
		"::1":                      "loopback",
		"::ffff:127.0.0.1":         "loopback",
		"64:ff9b::7f00:1":          "loopback",
		"224.0.0.1":                "multicast",
		"ff02::1":                  "multicast",
		"255.255.255.255":          "broadcast",
		"fd00:ec2::254":            "cloud metadata",
		"fd00:ec2::23":             "cloud metadata",
		"fd20:ce::254":             "cloud metadata",
		"fd00:42::42":              "cloud metadata",
		"100.100.100.200":          "cloud metadata",
		"168.63.129.16":            "cloud metadata",
		"192.0.0.192":              "cloud metadata",
		"fd00:c1::a9fe:a9fe":       "cloud metadata",
		"fd00:a9fe:a9fe::1":        "cloud metadata",
		"fd00:100::100:200":        "cloud metadata",
		"64:ff9b::a83f:8110":       "cloud metadata",
	} {
		err := (guard{}).control(t.Context(), "tcp", net.JoinHostPort(address, "80"), nil)
		if !errors.Is(err, fetcher.ErrOffLimits) || !strings.Contains(err.Error(), class+" address") {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "169.253.1.1", "64:ff9b::a00:1", "2001:db8::1", "1.1.1.1"} {
		if err := (guard{}).control(t.Context(), "tcp", net.JoinHostPort(address, "443"), nil); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	own := guard{loopback: true}
	for address, refused := range map[string]bool{"127.0.0.1:1": false, "[::1]:1": false, "169.254.169.254:80": true, "[::]:80": true, "unix": true} {
		if err := own.control(t.Context(), "tcp", address, nil); errors.Is(err, fetcher.ErrOffLimits) != refused {
			t.Errorf("%s, with an endpoint on loopback: %v", address, err)
		}
	}
}

// Behind a proxy the written host is all that is known.
func TestGuardJudgesHostsAsTheyAreWritten(t *testing.T) {
	for host, refused := range map[string]bool{
		"cdn.example": false, "1password.com": false, "a.b.c.example.": false, "10.1.2.3": false, "fd00::1": false, "xn--mgba3a4f16a.ir": false,
		"169.254.169.254": true, "169.254.169.254.": true, "fe80::1%eth0": true, "::ffff:a9fe:a9fe": true,
		"localhost": true, "LOCALHOST.": true, "x.localhost": true, "127.0.0.1": true,
		"2852039166": true, "0xa9fea9fe": true, "0251.0376.0251.0376": true, "169.254.43518": true, "127.1": true, "0x7f.1": true, "0x7f.0x0.0x0.0x1": true,
		"①⑥⑨.254.169.254": true, "１６９.254.169.254": true, "": true, ".": true,
	} {
		if err := (guard{}).host(host); errors.Is(err, fetcher.ErrOffLimits) != refused || (err == nil) == refused {
			t.Errorf("%q: %v", host, err)
		}
	}
	for host, want := range map[string]bool{"127.0.0.1": true, "::1": true, "localhost": true, "::ffff:127.0.0.1": true, "127.0.0.1.nip.io": false, "10.0.0.1": false, "hub": false} {
		if isLoopback(host) != want {
			t.Errorf("%q is loopback: %v", host, !want)
		}
	}
}

// guarded returns a Client of a Hub that sends whoever asks for content to location.
// The Hub itself is on loopback, as nothing else here may be.
func guarded(t *testing.T, location string) (*Client, *hubtest.Hub) {
	t.Helper()
	h := hubtest.New(t)
	h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, location, http.StatusFound)
		return true
	})
	c, err := New(Config{Endpoint: h.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	c.guard.loopback = false
	c.direct = newTransport(1, nil, net.Dialer{ControlContext: c.guard.control})
	return c, h
}

// readBoth reads a range, and a whole file, with cred.
func readBoth(t *testing.T, c *Client, cred fetcher.Secret) (errs []error) {
	t.Helper()
	path, err := fetcher.ParsePath("model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Open(t.Context(), revisionOf(t), fetcher.File{Path: path, Size: 100}, cred)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{10, 100} {
		r, err := o.ReadRange(t.Context(), 0, n)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			r.Close()
		}
		errs = append(errs, err)
	}
	return errs
}

func wantOffLimits(t *testing.T, name, says string, errs []error) {
	t.Helper()
	for _, err := range errs {
		if !errors.Is(err, fetcher.ErrOffLimits) || fetcher.Transient(err) || fetcher.Denied(err) {
			t.Errorf("%s: %v", name, err)
		} else if s := err.Error(); !strings.Contains(s, says) || !strings.Contains(s, "model.safetensors of org/name@") || strings.Contains(s, "sig") || len(s) > 500 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRedirectOfContentNeverLeadsToThisNodeOrItsCloud(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a service of this node was asked") }))
	defer inside.Close()
	port := inside.URL[strings.LastIndexByte(inside.URL, ':'):]
	for name, c := range map[string]struct{ location, says string }{
		"metadata":            {"http://169.254.169.254/latest/meta-data/?sig=signature", "link-local"},
		"metadata by number":  {"http://2852039166/latest/?sig=signature", "neither an IP address nor the name of a host"},
		"metadata by NAT64":   {"http://[64:ff9b::a9fe:a9fe]/?sig=signature", "link-local"},
		"link-local, IPv6":    {"http://[fe80::1%25eth0]/?sig=signature", "link-local"},
		"Azure's":             {"https://168.63.129.16/?sig=signature", "cloud metadata"},
		"loopback":            {"http://127.0.0.1" + port + "/?sig=signature", "loopback"},
		"loopback by name":    {"http://localhost" + port + "/?sig=signature", "loopback"},
		"loopback, unnamed":   {"http://0.0.0.0" + port + "/?sig=signature", "unspecified"},
		"loopback, mapped":    {"http://[::ffff:127.0.0.1]" + port + "/?sig=signature", "loopback"},
		"loopback in octal":   {"http://0177.0.0.1" + port + "/?sig=signature", "neither"},
		"loopback, shortened": {"http://127.1" + port + "/?sig=signature", "neither"},
	} {
		client, _ := guarded(t, c.location)
		wantOffLimits(t, name, c.says, readBoth(t, client, fetcher.Secret{}))
	}
}

// A name is judged by the address it has at the moment of the connection.
func TestNameThatResolvesToAForbiddenAddressIsNotConnectedTo(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a service of this node was asked") }))
	defer inside.Close()
	dns := serveDNS(t, [4]byte{127, 0, 0, 1})
	c, _ := guarded(t, "http://cdn.example"+inside.URL[strings.LastIndexByte(inside.URL, ':'):]+"/?sig=signature")
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", dns)
	}}
	c.direct = newTransport(1, nil, net.Dialer{ControlContext: c.guard.control, Resolver: resolver})
	wantOffLimits(t, "a name", "127.0.0.1 is a loopback address", readBoth(t, c, fetcher.Secret{}))
}

// serveDNS answers every question for an A record with addr, and returns where.
func serveDNS(t *testing.T, addr [4]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		for packet := make([]byte, 512); ; {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			question := packet[12:n] // up to two octets of type and two of class
			for i := range question {
				if question[i] == 0 {
					question = question[:i+5]
					break
				}
			}
			isA := question[len(question)-3] == 1
			reply := append([]byte{packet[0], packet[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
			if isA {
				reply[7] = 1                                                  // answers
				reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name asked for, A, IN, TTL 0, 4 octets
				reply = append(reply, addr[:]...)
			}
			conn.WriteTo(reply, from)
		}
	}()
	return conn.LocalAddr().String()
}

// The endpoint is where the operator says, on loopback, behind a proxy or wherever.
func TestEndpointItselfIsNotGuarded(t *testing.T) {
	c, h := guarded(t, "http://169.254.169.254/")
	h.Intercept(nil)
	h.AddRepo("org/name", map[string][]byte{"a": nil})
	repo := revisionOf(t).Repo
	ref, err := fetcher.ParseRef("main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), repo, ref, fetcher.Secret{}); err != nil {
		t.Error(err)
	}
}

// A proxy connects for us, on loopback too: it is asked for names that it can judge,
// never for an address that is forbidden as it is written.
func TestProxyIsNotAskedForForbiddenHosts(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Host)
		if r.URL.Host == "cdn.example" {
			fmt.Fprint(w, strings.Repeat("x", 100))
			return
		}
		w.Header().Set("Location", "http://"+strings.TrimSuffix(r.Host, ".hub.example")+"/?sig=signature")
		w.WriteHeader(http.StatusFound)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	for host, refused := range map[string]bool{"cdn.example": false, "169.254.169.254": true, "2852039166": true, "localhost": true} {
		asked = nil
		c, err := New(Config{Endpoint: "http://" + host + ".hub.example"})
		if err != nil {
			t.Fatal(err)
		}
		c.proxy = http.ProxyURL(at)
		c.transport = newTransport(1, c.proxy, net.Dialer{})
		errs := readBoth(t, c, fetcher.Secret{})
		if refused {
			wantOffLimits(t, host, "", errs)
		} else if errs[1] != nil || len(asked) < 3 {
			t.Errorf("%s: %v, asked for %q", host, errs, asked)
		}
		for _, a := range asked {
			if a != host+".hub.example" && refused {
				t.Errorf("the proxy was asked for %s", a)
			}
		}
		c.CloseIdle()
	}
}

func TestHomeIsOneOriginOnly(t *testing.T) {
	c, err := New(Config{Endpoint: "https://hub.example/hf"})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]bool{
		"https://hub.example/hf/x": true, "https://HUB.example/other": true,
		"http://hub.example/hf/x": false, "https://hub.example:8443/x": false, "https://hub.example.:443/x": false,
		"https://www.hub.example/x": false, "https://hub.example.evil/x": false, "ftp://hub.example/": false,
	} {
		u, err := url.Parse(at)
		if err != nil || c.home(u) != want {
			t.Errorf("%s: %v, %v", at, !want, err)
		}
	}
}
