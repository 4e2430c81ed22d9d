package agent_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

// does makes every answer of one kind f.
func does(kind string, f http.HandlerFunc) func(*evil) {
	return func(e *evil) {
		e.addLFS("model.safetensors", noise(7, 5000))
		e.add("config.json", []byte("{}"))
		e.on[kind] = f
	}
}

// What is not the Hub's answer is no verdict: it is waited out, as an outage is.
func TestHostileAnswersThatAreNotTheHubsAreWaitedOut(t *testing.T) {
	waits := func(name string, repo func(*evil), says ...string) hostileRow {
		return hostileRow{name: name, repo: repo, waits: true, says: append(says, "waiting: ")}
	}
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html><script>alert(1)</script></html>")
	}
	bomb := zipped(16 << 20)
	gzipped := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(bomb)
	}
	deep := func(begin string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, "%s%s", begin, strings.Repeat("[", 1<<20))
		}
	}
	flood := func(w http.ResponseWriter, _ *http.Request) {
		for i := range 4000 {
			w.Header().Set(fmt.Sprintf("X-Flood-%d", i), strings.Repeat("x", 1000))
		}
		w.Header().Set("X-Repo-Commit", evilCommit)
	}
	runHostile(t, []hostileRow{
		waits("a page in place of a commit", does(onRevision, page), "not the Hub's answer"),
		waits("a page in place of a listing", does(onTree, page), "not the Hub's answer"),
		waits("a page in place of a proof", does(onHead, page), "without the commit"),
		waits("a gzip bomb in place of a commit", does(onRevision, gzipped), "not the Hub's answer"),
		waits("a gzip bomb in place of a listing", does(onTree, gzipped), "not the Hub's answer"),
		waits("a commit nested a million deep", does(onRevision, deep(`{"a":`)), "nested deeper"),
		waits("a listing nested a million deep", does(onTree, deep(`[{"a":`)), "not the Hub's answer"),
		waits("4 MB of headers with a commit", does(onRevision, flood), "header"),
		waits("4 MB of headers with a proof", does(onHead, flood), "header"),
		waits("informational answers without end", does(onRevision, hijacked(func(c io.Writer) error {
			_, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
			return err
		})), "response headers exceeded"),
		waits("bytes that are not HTTP", does(onTree, hijacked(func(c io.Writer) error {
			_, err := c.Write(noise(1, 4096))
			return err
		})), "malformed HTTP"),
		waits("a connection cut in a listing", does(onTree, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `[{"type":"file"`)
		}), "unexpected EOF"),
	})
}

func TestHostileRedirectsAreNotFollowed(t *testing.T) {
	to := func(location string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", strings.ReplaceAll(location, "{path}", r.URL.Path))
			w.WriteHeader(http.StatusFound)
		}
	}
	var rows []hostileRow
	for _, c := range []struct{ name, kind, location, says string }{
		{"without end", onRevision, "{path}/", "more than 5 redirects"},
		{"to themselves", onTree, "{path}", "more than 5 redirects"},
		{"a listing at a cloud's metadata address", onTree, "http://169.254.169.254/latest/meta-data/", "a redirect to http://169.254.169.254"},
		{"a proof at a cloud's metadata address", onHead, "http://169.254.169.254/latest/meta-data/", "without the commit"},
		{"a commit at another port of this host", onRevision, "http://127.0.0.1:1/", "a redirect to http://127.0.0.1:1"},
		{"a commit in a file", onRevision, "file:///etc/passwd", "no URL"}, // without a host
		{"a commit in a file of a host", onRevision, "file://localhost/etc/passwd", `scheme "file"`},
		{"a listing by gopher", onTree, "gopher://127.0.0.1:70/", `scheme "gopher"`},
		{"a proof by ftp", onHead, "ftp://127.0.0.1/", `scheme "ftp"`},
		{"a commit in the redirect", onRevision, "data:application/json,{}", "no URL"},
		{"nowhere", onTree, "", "without a Location"},
	} {
		rows = append(rows, hostileRow{name: c.name, repo: does(c.kind, to(c.location)), waits: true, says: []string{c.says}})
	}
	runHostile(t, rows)
}

// What the Hub says is believed only where it agrees with itself.
func TestHostileAnswersThatContradictThemselvesAreRefused(t *testing.T) {
	const other = "e000000000000000000000000000000000000002"
	says := func(kind string, headers ...string) func(*evil) {
		return does(kind, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Repo-Commit", evilCommit)
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
		})
	}
	endless := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			answerJSON(w, `{"a":"`)
			for more := []byte(strings.Repeat(text, 1<<16/len(text))); r.Context().Err() == nil; {
				if _, err := w.Write(more); err != nil {
					return
				}
			}
		}
	}
	pinned := at(evilCommit)
	runHostile(t, []hostileRow{
		{name: "a proof for another commit", refused: fetcher.ErrMalformed, says: []string{"for commit " + other},
			repo: says(onHead, "X-Repo-Commit", other)},
		{name: "a proof for another commit than the pinned one", refused: fetcher.ErrMalformed, says: []string{"for commit " + other},
			repo: says(onHead, "X-Repo-Commit", other), edit: pinned},
		{name: "an X-Linked-Etag of other content", refused: fetcher.ErrMalformed, says: []string{"model.safetensors", "serves it as sha256:0000"},
			repo: says(onHead, "X-Linked-Etag", `"`+zeros64+`"`)},
		{name: "an ETag of other content", refused: fetcher.ErrMalformed, says: []string{"config.json", "serves it as git-blob-sha1:0000"},
			repo: func(e *evil) { e.add("config.json", []byte("{}")); e.claim("config.json", zeros40) }},
		{name: "a commit in a string without end", refused: fetcher.ErrMalformed, says: []string{"longer than"},
			repo: does(onRevision, endless("x"))},
		{name: "a listing in a string without end", refused: fetcher.ErrMalformed, says: []string{"longer than"},
			repo: does(onTree, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "["); endless(`\"`)(w, r) })},
		{name: "an error that paints the terminal", refused: fetcher.ErrNotFound, says: []string{"404", "check the repo attribute"},
			repo: does(onRevision, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Error-Code", "RepoNotFound")
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusNotFound)
				fmt.Fprintf(w, `{"error":"\u001b[2J\u202e\n%s"}`, strings.Repeat("all is well ", 100))
			})},
	})
}

// hijacked answers with what write writes, over and over, until it fails.
func hijacked(write func(io.Writer) error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		for write(c) == nil {
		}
	}
}

// zipped is n zeros, compressed.
func zipped(n int) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.CopyN(z, zeros{}, int64(n)); err != nil {
		panic(err)
	}
	z.Close()
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
