package hub

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
)

// Trust makes c take the certificates of these servers for good.
func Trust(c *Client, servers ...*httptest.Server) {
	pool := x509.NewCertPool()
	for _, s := range servers {
		if s.Certificate() != nil {
			pool.AddCert(s.Certificate())
		}
	}
	for _, t := range []*http.Transport{c.transport, c.direct} {
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
}
