package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// oneFile is a Library of one Repo with one file.
type oneFile struct {
	asked
	manifest *fetcher.Manifest
	content  []byte
	open     int // files that are not closed
}

type opened struct {
	*bytes.Reader
	lib *oneFile
}

func (o opened) Close() error { o.lib.open--; return nil }

func (l *oneFile) Manifest(context.Context, hubapi.Caller, fetcher.Repo, fetcher.Ref) (*fetcher.Manifest, error) {
	return l.manifest, nil
}

func (l *oneFile) Open(context.Context, hubapi.Caller, fetcher.Revision, fetcher.File) (io.ReadSeekCloser, error) {
	l.open++
	return opened{bytes.NewReader(l.content), l}, nil
}

// pipes is a listener in memory: pipes have deadlines, by the bubble's clock, and no
// room, so that whoever does not read holds the other end up.
type pipes struct {
	conns chan net.Conn
	once  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.once:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// TestWhoIsSlowHoldsItsConnectionAndNotForLong: how long a connection lasts whose client
// sends something and then neither sends nor reads. (net/http's own refusals are a few
// bytes, which any socket takes: there the client reads.)
func TestWhoIsSlowHoldsItsConnectionAndNotForLong(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 100<<20)
	repo, err := fetcher.ParseRepo("org/name")
	if err != nil {
		t.Fatal(err)
	}
	commit, err := fetcher.ParseCommit(strings.Repeat("ab", 20))
	if err != nil {
		t.Fatal(err)
	}
	manifest := storetest.Manifest(t, repo, commit, map[string][]byte{"f": content}, func(string) bool { return true })
	const post = "POST /api/models/org/name/paths-info/main HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
	for name, c := range map[string]struct {
		sends  string
		before time.Duration
		reads  bool
	}{
		"nothing":                 {"", 11 * time.Second, false},
		"half a header":           {"GET /org/name/resolve/main/f HTTP/1.1\r\nHost:", 11 * time.Second, false},
		"a request, and no more":  {"GET /api/whoami-v2 HTTP/1.1\r\nHost: h\r\n\r\n", 61 * time.Second, true},
		"a request for 100 MiB":   {"GET /org/name/resolve/main/f HTTP/1.1\r\nHost: h\r\n\r\n", 161 * time.Second, false},
		"half a body":             {post + "Content-Length: 100\r\n\r\n{", 121 * time.Second, false},
		"a body nobody asked for": {"GET /org/name/resolve/main/f HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n", 161 * time.Second, false},
		"a megabyte of headers":   {"GET /org/name/resolve/main/f HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20), 11 * time.Second, true},
		"a megabyte of URL":       {"GET /org/name/resolve/main/" + strings.Repeat("x", 1<<20), 11 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lib := &oneFile{manifest: manifest, content: content}
				api, err := hubapi.New(hubapi.Config{Library: lib})
				if err != nil {
					t.Fatal(err)
				}
				server, l := newHubServer(api, zap.NewNop()), &pipes{make(chan net.Conn), make(chan struct{})}
				ended := make(chan error, 1)
				go func() { ended <- server.Serve(l) }()
				client, conn := net.Pipe()
				l.conns <- conn
				go fmt.Fprint(client, c.sends)
				closed := make(chan error, 1)
				gone := func() { _, err := io.Copy(io.Discard, client); closed <- err }
				if c.reads {
					go gone()
				}
				time.Sleep(c.before) // the bubble's
				synctest.Wait()
				if !c.reads {
					client.SetReadDeadline(time.Now().Add(time.Millisecond))
					go gone()
				}
				time.Sleep(time.Second)
				select {
				case err := <-closed:
					if err != nil {
						t.Errorf("after %s the connection is still there: %v", c.before, err)
					}
				default:
					t.Errorf("after %s the connection is still there", c.before)
				}
				if lib.open != 0 {
					t.Errorf("%d files are open", lib.open)
				}
				client.Close()
				close(l.once)
				server.Close()
				time.Sleep(time.Second)
				if err := <-ended; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			})
		})
	}
}

// TestAPodThatHasJustStartedIsWaitedFor: its address is known a moment later.
func TestAPodThatHasJustStartedIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shown := time.Now().Add(2 * time.Second)
		admit := admission(func(netip.Addr) (string, bool) { return "team-a", !time.Now().Before(shown) }).within(3 * time.Second)
		if namespace, ok := admit(netip.Addr{}); !ok || namespace != "team-a" || time.Since(shown) > 100*time.Millisecond {
			t.Errorf("%q, %v, %s after its address is known", namespace, ok, time.Since(shown))
		}
		shown = time.Now().Add(time.Hour)
		began := time.Now()
		if _, ok := admit(netip.Addr{}); ok || time.Since(began) != 3*time.Second {
			t.Errorf("a stranger: %v after %s", ok, time.Since(began))
		}
	})
}
