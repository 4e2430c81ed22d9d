package modelexpress

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// The server's port (DEFAULT_GRPC_PORT of modelexpress_common/src/lib.rs), and that of a
// proxy before it.
const defaultPort, defaultTLSPort = "8001", "443"

// target is where a server is.
type target struct {
	address string // host:port
	tls     bool
}

// String returns host:port, for people.
func (t target) String() string { return t.address }

// parseURL reads what Config.URL describes. Its errors do not repeat the text, which may
// hold a password.
func parseURL(s string) (target, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" {
		return target{}, errors.New("the URL of Model Express is none: it must be host:port, http://host:port or https://host:port")
	}
	port := u.Port()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return target{}, fmt.Errorf("the URL of Model Express at %s: its scheme must be http or https", u.Host)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return target{}, fmt.Errorf("the URL of Model Express at %s: it must have no user, path, query or fragment", u.Host)
	case port == "" && u.Scheme == "https":
		port = defaultTLSPort
	case port == "":
		port = defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return target{}, fmt.Errorf("the URL of Model Express at %s: its port must be a number from 1 to 65535", u.Hostname())
	}
	return target{net.JoinHostPort(u.Hostname(), port), u.Scheme == "https"}, nil
}
