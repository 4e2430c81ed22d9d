package hub

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// rawServer answers every connection by f, without net/http's manners, and returns
// its URL.
func rawServer(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				f(conn)
			}
			conn.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

// flood sends start, then part until nobody reads any more or 64 MiB are sent.
func flood(start, part string) func(net.Conn) {
	return func(conn net.Conn) {
		io.WriteString(conn, start)
		chunk := bytes.Repeat([]byte(part), max(1, 32<<10/len(part)))
		for sent := 0; sent < 64<<20; sent += len(chunk) {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}
}

func says(text string) func(net.Conn) {
	return func(conn net.Conn) { io.WriteString(conn, text) }
}

const ok = "HTTP/1.1 200 OK\r\n"

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.String()
}

// Each ends soon, in little memory, with an error that another try may not meet, to
// whoever asks for a listing, a proof or content.
func TestHostileHTTPIsBounded(t *testing.T) {
	log.SetOutput(io.Discard) // net/http repeats there what comes on an idle connection
	defer log.SetOutput(os.Stderr)
	bomb := zipped(strings.Repeat(" ", 16<<20))
	for name, f := range map[string]func(net.Conn){
		"headers without end":         flood(ok, "X-A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n"),
		"a header line without end":   flood(ok+"X-A: ", "a"),
		"one header a million times":  flood(ok, "A:\r\n"),
		"a status without end":        flood("HTTP/1.1 200 ", "a"),
		"interim answers without end": flood("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
		"no HTTP":                     flood("", "\x00\x01\x02\x03"),
		"another version":             says("HTTP/9.9 200 OK\r\n\r\n"),
		"two lengths":                 says(ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
		"a negative length":           says(ok + "Content-Length: -1\r\n\r\n"),
		"a length beyond all":         says(ok + "Content-Length: 99999999999999999999\r\n\r\n"),
		"a length with more to come":  says(ok + "X-Repo-Commit: zzz\r\nContent-Length: 1000000\r\n\r\n[{\"type\":"),
		"a length too short":          says(ok + "Content-Length: 9\r\n\r\n[{\"type\":\"file\"}]"),
		"a chunk without end":         flood(ok+"Transfer-Encoding: chunked\r\n\r\n", "0"),
		"chunks with long extensions": flood(ok+"Transfer-Encoding: chunked\r\n\r\n1;", "a"),
		"trailers without end":        flood(ok+"Transfer-Encoding: chunked\r\n\r\n0\r\n", "X-A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n"),
		"a gzip bomb":                 says(ok + "Content-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n" + bomb),
		"an error page without end":   flood("HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n{\"error\":\"", "a"),
		"a zipped error":              says("HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n" + zipped(`{"error":"no"}`)),
		"an error nested deep":        flood("HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n{\"error\":", "["),
		"redirects with long pages":   flood("HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", "a"),
		"another protocol":            says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
	} {
		c, err := New(Config{Endpoint: rawServer(t, f)})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, listing := c.Manifest(t.Context(), revisionOf(t), fetcher.Secret{})
		proof := prove(t, c)
		reads := readBoth(t, c, fetcher.Secret{})
		runtime.ReadMemStats(&after)
		for i, err := range append([]error{listing, proof}, reads...) {
			if !fetcher.Unreachable(err) || fetcher.Denied(err) || len(err.Error()) > 700 || !strings.Contains(err.Error(), "org/name") {
				t.Errorf("%s, question %d: %.1000v", name, i+1, err)
			}
		}
		if took, kib := time.Since(began), (after.TotalAlloc-before.TotalAlloc)>>10; took > 30*time.Second || kib > 32<<10 {
			t.Errorf("%s: %s, %d KiB were allocated", name, took, kib)
		}
		c.CloseIdle()
	}
}

func prove(t *testing.T, c *Client) error {
	t.Helper()
	path, err := fetcher.ParsePath("a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Prove(t.Context(), revisionOf(t).Repo, revisionOf(t).Commit.Ref(), path, fetcher.Secret{})
	return err
}

// Two hosts that each send content on to the other, by ever new URLs.
func TestContentThatIsSentOnWithoutEndIsGivenUp(t *testing.T) {
	asked, other := 0, [2]string{}
	bounce := func(to int) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			http.Redirect(w, r, fmt.Sprintf("%s/%d?sig=signature", other[to], asked), http.StatusFound)
		}))
	}
	a, b := bounce(1), bounce(0)
	defer a.Close()
	defer b.Close()
	other = [2]string{a.URL, b.URL}
	c, err := New(Config{Endpoint: a.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdle()
	for i, err := range readBoth(t, c, fetcher.Secret{}) {
		if !fetcher.Unreachable(err) || !strings.Contains(err.Error(), "more than 5 redirects") || strings.Contains(err.Error(), "sig") {
			t.Errorf("read %d: %v", i+1, err)
		}
	}
	if asked > 2*(maxRedirects+1)+1 {
		t.Errorf("asked %d times", asked)
	}
}

// Content that comes slowly is the engine's to judge; for all else there is a minute.
func TestAnswerThatDripsIsGivenUpAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{Endpoint: "http://hub.example"})
		if err != nil {
			t.Fatal(err)
		}
		var server sync.WaitGroup
		c.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			server.Go(func() {
				defer far.Close()
				if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
					return
				}
				_, err := io.WriteString(far, ok+"\r\n[")
				for ; err == nil; _, err = io.WriteString(far, " ") {
					time.Sleep(time.Second)
				}
			})
			return near, nil
		}
		began := time.Now()
		_, err = c.Manifest(t.Context(), revisionOf(t), fetcher.Secret{})
		if took := time.Since(began); !fetcher.Unreachable(err) || !strings.Contains(err.Error(), "no whole answer in 1m0s") || took > askTimeout+time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		c.CloseIdle()
		server.Wait()
	})
}
