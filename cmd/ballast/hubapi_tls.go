package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// certificate is a certificate and its key in files that are replaced now and then, as
// cert-manager does. While what is there cannot be used, what was there before is.
type certificate struct {
	certFile, keyFile string
	log               *zap.Logger

	mu     sync.Mutex // guards what follows
	loaded *tls.Certificate
	seen   stamp // of what was loaded, or could not be
}

// stamp tells two states of the files apart.
type stamp struct {
	certAt, keyAt     time.Time
	certSize, keySize int64
}

// openCertificate loads the files, and fails if they hold no certificate and its key.
func openCertificate(certFile, keyFile string, log *zap.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	return c, c.load(c.stamp())
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.current}
}

// current is asked at each handshake.
func (c *certificate) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.stamp(); now != c.seen {
		if err := c.load(now); err != nil {
			c.log.Warn("the certificate has changed and cannot be used; going on with the one before", zap.Error(err))
		} else {
			c.log.Info("the certificate has changed", zap.String("file", c.certFile), zap.Time("not_after", c.loaded.Leaf.NotAfter))
		}
	}
	return c.loaded, nil
}

// load reads the files, which look like at. That is looked at first: what changes while
// they are read is read again.
func (c *certificate) load(at stamp) error {
	c.seen = at
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.loaded = &pair
	return nil
}

// stamp of a file that cannot be looked at is zero; load says why.
func (c *certificate) stamp() (s stamp) {
	if i, err := os.Stat(c.certFile); err == nil {
		s.certAt, s.certSize = i.ModTime(), i.Size()
	}
	if i, err := os.Stat(c.keyFile); err == nil {
		s.keyAt, s.keySize = i.ModTime(), i.Size()
	}
	return s
}
