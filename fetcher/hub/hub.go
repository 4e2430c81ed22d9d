// Package hub owns how the Hugging Face Hub is spoken to over HTTP: what a Ref
// and a Revision are (fetcher.Hub), the bytes of a file (fetcher.Source),
// and what its errors and rate limits mean.
//
// It must never know where bytes go, nor who asks.
//
// Invariants:
//   - A token goes to the endpoint's own origin (scheme, host and port) and
//     nowhere else: a redirect to another one drops it for good.
//   - A token goes over http:// only if Config says so.
//   - A redirect to another origin never connects to what guard forbids, and none is
//     followed from https to http.
//   - What the Hub has said that it would refuse for now is not sent.
//   - Neither a token nor a signed URL is in any error or log line.
//   - Only the Hub's own words are a verdict on a repository. A proxy's page, a
//     default backend's 404 or a login's redirect is fetcher.UnreachableError; a limit
//     of the Hub's, or a shortage of this machine's, never is.
//   - No answer grows without bound: JSON, pages and redirects are limited.
//     Bodies of content have no time limit here; the engine's stall watchdog
//     ends them.
//   - A reader gives exactly the bytes that were asked for, or an error.
//
// The Hub's manners are taken from huggingface_hub (utils/_http.py,
// file_download.py) and hub-docs (rate-limits.md).
package hub

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// Name is the word for the Hub in progress, records and metrics.
const Name = "hub"

// DefaultEndpoint is the public Hub.
const DefaultEndpoint = "https://huggingface.co"

const (
	dialTimeout    = 10 * time.Second
	tlsTimeout     = 10 * time.Second
	headersTimeout = 30 * time.Second
	idleTimeout    = 90 * time.Second
	// askTimeout bounds a whole exchange that is not content.
	askTimeout   = 60 * time.Second
	maxAnswer    = 64 << 20 // bytes
	maxPages     = 1000
	maxRedirects = 5
)

// Config says which Hub to speak to and how.
type Config struct {
	// Endpoint is the Hub's URL, what HF_ENDPOINT holds: http or https, perhaps
	// with a path, without user, query or fragment. Empty: DefaultEndpoint.
	Endpoint string
	// UserAgent is sent with every request. Empty: "ballast".
	UserAgent string
	// Connections is how many requests the engine may have at work at once;
	// that many idle connections are kept a host. 0: 8.
	Connections int
	Log         *zap.Logger // nil: none
	// TokensOverHTTP allows tokens on the way to an http:// endpoint. Without, what
	// would need one fails there with fetcher.ErrInsecure.
	TokensOverHTTP bool
	// CAFile is a PEM file of certificates that are trusted beside the system's, of the
	// endpoint and of whatever else content comes from. It is read by New. Empty: none.
	CAFile string
}

// Client speaks to one Hub. It is safe for concurrent use.
type Client struct {
	endpoint       *url.URL
	userAgent      string
	tokensOverHTTP bool
	log            *zap.Logger

	transport *http.Transport // to the endpoint's origin, and to whatever a proxy connects to
	direct    *http.Transport // to other origins, guarded
	proxy     func(*http.Request) (*url.URL, error)
	guard     guard
	gate      gate

	// Limits on one answer, or on all pages of a listing.
	maxAnswer  int64 // bytes of JSON
	maxEntries int
}

var (
	_ fetcher.Source = (*Client)(nil)
	_ fetcher.Hub    = (*Client)(nil)
)

// New checks cfg and returns a Client; it asks nothing of the network.
func New(cfg Config) (*Client, error) {
	if cfg.Endpoint == "" {
		cfg.Endpoint = DefaultEndpoint
	}
	endpoint, err := parseEndpoint(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if cfg.Connections < 0 {
		return nil, fmt.Errorf("%d connections to the Hub: must be positive", cfg.Connections)
	}
	if cfg.Connections == 0 {
		cfg.Connections = 8
	}
	roots, err := readRoots(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	c := &Client{
		endpoint: endpoint, userAgent: cfg.UserAgent, tokensOverHTTP: cfg.TokensOverHTTP, log: cfg.Log,
		proxy: http.ProxyFromEnvironment, guard: guard{loopback: isLoopback(endpoint.Hostname())},
		maxAnswer: maxAnswer, maxEntries: fetcher.MaxFiles,
	}
	if c.userAgent == "" {
		c.userAgent = "ballast"
	}
	if c.log == nil {
		c.log = zap.NewNop()
	}
	c.transport = newTransport(cfg.Connections, c.proxy, net.Dialer{})
	c.direct = newTransport(cfg.Connections, nil, net.Dialer{ControlContext: c.guard.control})
	for _, t := range []*http.Transport{c.transport, c.direct} {
		t.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return c, nil
}

// parseEndpoint reads a Hub's URL. Its errors do not repeat the text, which may
// hold a password.
func parseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(s, "/"))
	switch {
	case err != nil || u.Hostname() == "":
		return nil, errors.New("endpoint of the Hub is not a URL such as " + DefaultEndpoint)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("endpoint of the Hub %s: scheme must be http or https", u.Redacted())
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("endpoint of the Hub %s://%s: must have no user, query or fragment", u.Scheme, u.Host)
	}
	return u, nil
}

// readRoots returns the system's certificates and those of file; nil, which is the
// system's too, if there is no file.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificates to trust: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("certificates to trust beside those of %s: %w", file, err)
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("certificates to trust: %s holds none in PEM form (-----BEGIN CERTIFICATE-----)", file)
	}
	return roots, nil
}

// newTransport speaks HTTP/1.1 only: many connections carry more than the streams of
// one.
func newTransport(connections int, proxy func(*http.Request) (*url.URL, error), dialer net.Dialer) *http.Transport {
	dialer.Timeout = dialTimeout
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  proxy,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headersTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConns:           4 * connections,
		MaxIdleConnsPerHost:    connections,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true,
		Protocols:              &protocols,
	}
}

// Name returns "hub".
func (c *Client) Name() string { return Name }

// CloseIdle closes connections that are not in use.
func (c *Client) CloseIdle() {
	c.transport.CloseIdleConnections()
	c.direct.CloseIdleConnections()
}

// apiURL returns {endpoint}/api/{models|datasets}/{repo}/{parts}, each part
// escaped whole, as the Hub wants a branch with slashes.
func (c *Client) apiURL(repo fetcher.Repo, parts ...string) *url.URL {
	path := "/api/models/"
	if repo.Kind() == fetcher.Dataset {
		path = "/api/datasets/"
	}
	path += repo.Name()
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	return c.at(path)
}

// resolveURL returns {endpoint}/[datasets/]{repo}/resolve/{ref}/{path}.
func (c *Client) resolveURL(repo fetcher.Repo, ref fetcher.Ref, path fetcher.Path) *url.URL {
	parts := strings.Split(path.String(), "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return c.at("/" + repo.String() + "/resolve/" + url.PathEscape(ref.String()) + "/" + strings.Join(parts, "/"))
}

// at returns the endpoint with an escaped path added.
func (c *Client) at(escaped string) *url.URL {
	u := *c.endpoint
	full := c.endpoint.EscapedPath() + escaped
	path, err := url.PathUnescape(full)
	if err != nil {
		panic("hub: path was not escaped") // every caller escapes
	}
	u.Path, u.RawPath = path, full
	return &u
}

// home reports whether u is at the endpoint's own origin.
func (c *Client) home(u *url.URL) bool {
	return u.Scheme == c.endpoint.Scheme && strings.EqualFold(u.Host, c.endpoint.Host)
}
