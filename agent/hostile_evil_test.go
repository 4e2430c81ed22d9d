package agent_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// evil answers for one repository, as an honest Hub does but for what is put into on.
type evil struct {
	repo    string
	entries []string            // of its tree, as JSON
	files   map[string]evilFile // by path
	on      map[string]http.HandlerFunc
	asked   func()
}

type evilFile struct {
	content []byte
	sum     string // what its ETag says
	lfs     bool
}

// What on may hold: how evil answers one kind of request.
const (
	onRevision = "revision"
	onTree     = "tree"
	onHead     = "head"
	onGet      = "get"
)

// newEvil answers for repo. asked is closed by the first request.
func newEvil(repo string) (e *evil, asked <-chan struct{}) {
	first := make(chan struct{})
	return &evil{
		repo: repo, files: map[string]evilFile{}, on: map[string]http.HandlerFunc{},
		asked: sync.OnceFunc(func() { close(first) }),
	}, first
}

// add lists path with what is true of content.
func (e *evil) add(path string, content []byte) {
	e.files[path] = evilFile{content: content, sum: gitSum(content)}
	e.list(path, int64(len(content)), gitSum(content))
}

// addLFS is add for an LFS file.
func (e *evil) addLFS(path string, content []byte) {
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	e.files[path] = evilFile{content: content, sum: sum, lfs: true}
	e.listLFS(path, int64(len(content)), sum)
}

// list adds an entry to the tree, whatever else is true.
func (e *evil) list(path string, size int64, sum string) {
	e.raw(`{"type":"file","oid":%s,"size":%d,"path":%s}`, quote(sum), size, quote(path))
}

func (e *evil) listLFS(path string, size int64, sum string) {
	e.raw(`{"type":"file","oid":"%040d","size":%d,"path":%s,"lfs":{"oid":%s,"size":%d}}`, 0, size, quote(path), quote(sum), size)
}

func (e *evil) raw(format string, args ...any) {
	e.entries = append(e.entries, fmt.Sprintf(format, args...))
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func gitSum(content []byte) string {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(content))
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil))
}

// answer answers what is asked about the repository, and reports whether it was.
func (e *evil) answer(w http.ResponseWriter, r *http.Request) bool {
	api, content := "/api/models/"+e.repo+"/", "/"+e.repo+"/resolve/"
	kind, path := "", ""
	switch {
	case strings.HasPrefix(r.URL.Path, api+"revision/"):
		kind = onRevision
	case strings.HasPrefix(r.URL.Path, api+"tree/"):
		kind = onTree
	case r.URL.Path == api+"auth-check":
		kind = onRevision
	case strings.HasPrefix(r.URL.Path, content):
		kind = map[string]string{http.MethodHead: onHead, http.MethodGet: onGet}[r.Method]
		_, path, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, content), "/")
	default:
		return false
	}
	e.asked()
	if own := e.on[kind]; own != nil {
		own(w, r)
		return true
	}
	switch kind {
	case onRevision:
		answerJSON(w, `{"_id":"e1","id":%q,"sha":%q}`, e.repo, evilCommit)
	case onTree:
		answerJSON(w, "[%s]", strings.Join(e.entries, ","))
	default:
		e.serve(w, r, path)
	}
	return true
}

func answerJSON(w http.ResponseWriter, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, format, args...)
}

// serve answers for a file: its headers, and for a GET its bytes.
func (e *evil) serve(w http.ResponseWriter, r *http.Request, path string) {
	f, ok := e.files[path]
	w.Header().Set("X-Repo-Commit", evilCommit)
	if !ok {
		w.Header().Set("X-Error-Code", "EntryNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("ETag", strconv.Quote(f.sum))
	if f.lfs {
		w.Header().Set("X-Linked-Etag", strconv.Quote(f.sum))
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}
