package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate puts a new certificate for loopback, of a serial number, and its key
// into dir, as files that look changed whatever the clock's grain.
func writeCertificate(t *testing.T, dir string, serial int64) (flags hubAPIConfig, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "node"}, IPAddresses: []net.IP{net.ParseIP("127.0.0.1")},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	flags = hubAPIConfig{TLSCert: filepath.Join(dir, "tls.crt"), TLSKey: filepath.Join(dir, "tls.key")}
	put(t, flags.TLSCert, serial, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	put(t, flags.TLSKey, serial, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
	roots = x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(cert)
	return flags, roots
}

func put(t *testing.T, file string, age int64, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(time.Duration(age) * time.Second)
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestACertificateIsReadAnewWhenItChanges(t *testing.T) {
	dir, log := t.TempDir(), newDiary()
	flags, roots := writeCertificate(t, dir, 1)
	address, _ := startHubAPI(t, flags, &asked{}, log.Logger)
	shown := func(roots *x509.CertPool) int64 {
		t.Helper()
		dialer := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(podA)}}, Config: &tls.Config{RootCAs: roots}}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := shown(roots); got != 1 {
		t.Errorf("certificate %d; want 1", got)
	}
	put(t, flags.TLSCert, 2, []byte("half a certificate"))
	for range 3 {
		if got := shown(roots); got != 1 {
			t.Errorf("certificate %d while there is no whole one; want the one before", got)
		}
	}
	if n := strings.Count(log.String(), "cannot be used"); n != 1 {
		t.Errorf("that it cannot be used was said %d times; want once", n)
	}
	_, roots = writeCertificate(t, dir, 3)
	if got := shown(roots); got != 3 {
		t.Errorf("certificate %d; want 3", got)
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("the key is in the log")
	}
}

func TestOldTLSAndPlainHTTPAreRefusedWhereThereIsACertificate(t *testing.T) {
	flags, roots := writeCertificate(t, t.TempDir(), 1)
	lib := &asked{}
	address, _ := startHubAPI(t, flags, lib, newDiary().Logger)
	for _, c := range []struct {
		version uint16
		ok      bool
	}{{tls.VersionTLS11, false}, {tls.VersionTLS12, true}, {tls.VersionTLS13, true}} {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10, MaxVersion: c.version, NextProtos: []string{"h2", "http/1.1"}})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", tls.VersionName(c.version), err)
		}
		if err == nil {
			if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
				t.Errorf("protocol %q; want one request a connection at a time", p)
			}
			conn.Close()
		}
	}
	client := from(t, podA)
	if res, err := client.Get("http://" + address + "/api/models/org/name"); err == nil {
		res.Body.Close()
		if res.StatusCode != 400 {
			t.Errorf("plain HTTP: %s", res.Status)
		}
	}
	if len(lib.callers()) != 0 {
		t.Error("plain HTTP was answered")
	}
}
