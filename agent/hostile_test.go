package agent_test

import (
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/agent"
)

// What the hostile tests hold together. Each row of their tables is one repository, or
// one Hub, that means harm. It runs on an agent of its own, and whatever else it shows:
//
//   - the call ends, or waits and says why, within the row's time;
//   - the heap grows by no more than the row's memory;
//   - another repository of the same Hub is acquired meanwhile, through the same agent;
//   - afterwards the store's invariants hold, nothing beside the cache directory has
//     changed, what was refused takes no room in it, and no goroutine is left.

// evilRepo is what the hostile repository is called; files of goodRepo are as they
// should be.
const (
	evilRepo   = "evil/repo"
	goodRepo   = "good/name"
	evilCommit = "e000000000000000000000000000000000000001"
)

// evil answers for evilRepo, as an honest Hub does but for what is put into on.
type evil struct {
	entries []string            // of its tree, as JSON
	files   map[string]evilFile // by path
	on      map[string]http.HandlerFunc
	asked   chan struct{} // closed by the first request
	once    sync.Once
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

func newEvil() *evil {
	return &evil{files: map[string]evilFile{}, on: map[string]http.HandlerFunc{}, asked: make(chan struct{})}
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

// answer answers what is asked about evilRepo, and reports whether it was.
func (e *evil) answer(w http.ResponseWriter, r *http.Request) bool {
	const api, content = "/api/models/" + evilRepo + "/", "/" + evilRepo + "/resolve/"
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
	e.once.Do(func() { close(e.asked) })
	if own := e.on[kind]; own != nil {
		own(w, r)
		return true
	}
	switch kind {
	case onRevision:
		answerJSON(w, `{"_id":"e1","id":%q,"sha":%q}`, evilRepo, evilCommit)
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
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(f.content)))
}

// hostileRow is one repository or Hub that means harm, and what becomes of it.
type hostileRow struct {
	name string
	repo func(*evil)
	edit func(*agent.Request)

	refused error    // the call is refused, and this is why
	waits   bool     // or it waits, until its pod is told why
	says    []string // and then this is said

	within time.Duration // how long the call may take; 0: 5 s
	memory int64         // how many bytes the heap may grow by; 0: 32 MiB
}

// events is an agent.Pods that hands on what pods are told.
type events func(p agent.Pod, message string)

func (events) UserNamespace(context.Context, agent.Pod) (bool, error)   { return false, nil }
func (events) IsDeleting(string) bool                                   { return false }
func (e events) Tell(p agent.Pod, reason, message string, warning bool) { e(p, message) }

// run runs r on an agent of its own.
func (r hostileRow) run(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(r.within, 5*time.Second))
	defer cancel()
	w := newWorld(t)
	w.dir = fence(t)
	var told atomic.Value
	w.cfg.Pods = events(func(p agent.Pod, message string) {
		told.Store(message)
		if r.waits { // and this is why
			cancel()
		}
	})
	w.start()
	w.hub.AddRepo(goodRepo, small(1))
	e := newEvil()
	if r.repo == nil {
		r.repo = func(*evil) {}
	}
	r.repo(e)
	w.hub.Intercept(e.answer)

	other := make(chan error, 1)
	go func() {
		<-e.asked
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := w.Acquire(ctx, request("good", goodRepo))
		other <- err
	}()
	var m agent.Mountable
	var err error
	took, grew := measure(func() { m, err = w.Acquire(ctx, hostileRequest(r.edit)) })
	r.judge(t, m, err)
	if message := told.Load(); r.waits && message != err.Error() {
		t.Errorf("the pod was told %q, its call %q", message, err)
	}
	bounds(t, took, cmp.Or(r.within, 5*time.Second), grew, cmp.Or(r.memory, 32<<20))
	if err := <-other; err != nil {
		t.Errorf("another repository of the same Hub: %v", err)
	}
	w.halt()
	if room := allocated(t, w.dir); room > 8<<20 {
		t.Errorf("what was refused takes %d bytes of the cache", room)
	}
}

func hostileRequest(edit func(*agent.Request)) agent.Request {
	req := request("evil", evilRepo)
	req.Pod = agent.Pod{Namespace: "tenant", Name: "evil", UID: "evil"}
	if edit != nil {
		edit(&req)
	}
	return req
}

// judge compares what came of the call with what r says.
func (r hostileRow) judge(t *testing.T, m agent.Mountable, err error) {
	t.Helper()
	var refused *agent.RefusedError
	var waiting *agent.WaitingError
	switch {
	case err == nil:
		t.Fatalf("it was given: %+v", m)
	case r.waits:
		if !errors.As(err, &waiting) {
			t.Fatalf("the call ended with %v; want a WaitingError", err)
		}
	case !errors.As(err, &refused) || !errors.Is(err, r.refused):
		t.Fatalf("the call ended with %v; want a RefusedError that is %q", err, r.refused)
	case refused.Advice == "" || strings.Contains(refused.Advice, "see the log"):
		t.Errorf("%q does not say what to do", err)
	}
	contains(t, err.Error(), evilRepo)
	contains(t, err.Error(), r.says...)
	if strings.ContainsFunc(err.Error(), func(c rune) bool { return !strconv.IsPrint(c) }) || len(err.Error()) > 2000 {
		t.Errorf("not fit to be shown (%d bytes): %q", len(err.Error()), err)
	}
}

// bounds compares what a call took with what it may.
func bounds(t *testing.T, took, within time.Duration, grew, memory int64) {
	t.Helper()
	t.Logf("took %8s, heap + %5.1f MiB", took.Round(time.Millisecond), float64(grew)/(1<<20))
	if took > within {
		t.Errorf("the call took %s, more than %s", took, within)
	}
	if grew > memory {
		t.Errorf("the heap grew by %d bytes, more than %d", grew, memory)
	}
}

// measure runs f and returns how long it took, and how many bytes the heap had at
// most beyond those it had before: objects, those that are garbage included.
func measure(f func()) (took time.Duration, grew int64) {
	runtime.GC()
	before := heap()
	most := before
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				most = max(most, heap())
			case <-stop:
				return
			}
		}
	}()
	began := time.Now()
	f()
	took = time.Since(began)
	close(stop)
	<-stopped
	return took, max(most, heap()) - before
}

func heap() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

func blocks(info fs.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }

// fence returns a cache directory with neighbours, which must be what they were when
// the test ends.
func fence(t *testing.T) (cache string) {
	t.Helper()
	outer := t.TempDir()
	cache = filepath.Join(outer, "node", "cache")
	for _, canary := range []string{"canary", "etc/passwd", "node/canary", "node/views/canary", "node/blobs/canary", "node/cache.partial"} {
		p := filepath.Join(outer, canary)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte("untouched"), 0o644))
	}
	before := neighbours(t, outer, cache)
	t.Cleanup(func() {
		if after := neighbours(t, outer, cache); after != before {
			t.Errorf("beside the cache directory it was\n%sand is\n%s", before, after)
		}
	})
	return cache
}

func neighbours(t *testing.T, outer, cache string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(outer, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == cache {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err == nil && d.Type().IsRegular() {
			content, _ := os.ReadFile(p)
			fmt.Fprintf(&b, "%s %s %s %s\n", p, info.Mode(), info.ModTime(), content)
		} else if err == nil {
			fmt.Fprintf(&b, "%s %s\n", p, info.Mode())
		}
		return err
	}))
	return b.String()
}

// allocated returns how many bytes of the disk dir and all below it take.
func allocated(t *testing.T, dir string) (n int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += blocks(info)
		}
		return err
	}))
	return n
}

func runHostile(t *testing.T, rows []hostileRow) {
	for _, r := range rows {
		t.Run(r.name, r.run)
	}
}
