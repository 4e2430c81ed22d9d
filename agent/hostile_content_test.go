package agent_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// runTogether runs all rows at the same time on one agent, each a repository and a pod
// of its own, for what is tried again and again before it is told: whatever one of them
// does, it does to itself. The heap that is measured is that of all.
func runTogether(t *testing.T, stall time.Duration, rows []hostileRow) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	w := newWorld(t)
	w.dir = fence(t)
	var told sync.Map // pod -> context.CancelFunc
	w.cfg.Pods = events(func(p agent.Pod, warning bool, message string) {
		if end, ok := told.Load(p.Name); ok && warning {
			end.(context.CancelFunc)()
		}
	})
	w.startWith(store.Config{Reserve: -1}, fetcher.EngineConfig{Stall: stall})
	w.hub.AddRepo(goodRepo, small(1))
	var all []*evil
	for i, r := range rows {
		e, _ := newEvil(fmt.Sprintf("evil/row-%02d", i))
		r.repo(e)
		all = append(all, e)
	}
	w.hub.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		return slices.ContainsFunc(all, func(e *evil) bool { return e.answer(w, r) })
	})

	type outcome struct {
		m    agent.Mountable
		err  error
		took time.Duration
	}
	outcomes := make([]outcome, len(rows))
	var calls sync.WaitGroup
	_, grew := measure(func() {
		for i, r := range rows {
			ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(r.within, 20*time.Second))
			defer cancel()
			req := request(all[i].repo, all[i].repo)
			req.Pod = agent.Pod{Namespace: "tenant", Name: all[i].repo, UID: all[i].repo}
			if r.waits {
				told.Store(req.Pod.Name, cancel)
			}
			calls.Go(func() {
				began := time.Now()
				m, err := w.Acquire(ctx, req)
				outcomes[i] = outcome{m, err, time.Since(began)}
			})
		}
		w.must(request("good", goodRepo))
		calls.Wait()
	})
	for i, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			o := outcomes[i]
			bounds(t, o.took, cmp.Or(r.within, 20*time.Second), grew, 128<<20)
			if r.refused == nil && !r.waits {
				must(t, o.err)
				w.t = t
				w.sees(o.m, map[string][]byte{"model.safetensors": all[i].files["model.safetensors"].content})
				return
			}
			r.judge(t, all[i].repo, o.m, o.err)
		})
	}
}

// whole is the file that most rows list.
var whole = noise(3, 5000)

// gives makes the content that comes whatever f writes.
func gives(f http.HandlerFunc) func(*evil) { return givesOf(whole, f) }

// givesOf is gives for other content: a row that is given it would lend it to the rest.
func givesOf(content []byte, f http.HandlerFunc) func(*evil) {
	return func(e *evil) {
		e.addLFS("model.safetensors", content)
		e.on[onGet] = f
	}
}

// givesPieces is gives for a file of two Pieces.
func givesPieces(f http.HandlerFunc) func(*evil) {
	return givesOf(noise(4, fetcher.PieceSize+5000), f)
}

// ofLength writes content and says that it has n bytes.
func ofLength(n int, content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(n))
		w.Write(content)
	}
}

// drips serves content as it should be served, but n bytes at a time with a wait
// between.
func drips(content []byte, n int, every time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(drip{w, r.Context(), n, every}, r, "", time.Time{}, bytes.NewReader(content))
	}
}

type drip struct {
	http.ResponseWriter
	ctx   context.Context
	n     int
	every time.Duration
}

func (d drip) Write(b []byte) (written int, err error) {
	for written < len(b) && err == nil {
		var n int
		n, err = d.ResponseWriter.Write(b[written:min(written+d.n, len(b))])
		written += n
		err = errors.Join(err, http.NewResponseController(d.ResponseWriter).Flush())
		select {
		case <-time.After(d.every):
		case <-d.ctx.Done():
			return written, d.ctx.Err()
		}
	}
	return written, err
}

// never waits until the caller has gone.
func never(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func TestHostileContentIsNotTaken(t *testing.T) {
	waits := func(name string, repo func(*evil), says ...string) hostileRow {
		return hostileRow{name: name, repo: repo, waits: true, says: append(says, "0% of", "waiting: ", "model.safetensors")}
	}
	other, bomb := noise(5, len(whole)), zipped(16<<20)
	more, last := noise(7, 5000), noise(8, 5000) // each its own
	flood := strings.Repeat("X-Flood: "+strings.Repeat("x", 1000)+"\r\n", 4000)
	ranged := func(contentRange string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			w.Write(whole)
		}
	}
	mismatch := func(name string, repo func(*evil)) hostileRow {
		return hostileRow{name: name, repo: repo, refused: errMismatch, says: []string{"model.safetensors", "does not match its digest", "the next try fetches it again"}}
	}
	runTogether(t, time.Second, []hostileRow{
		mismatch("other bytes of the right length", gives(ofLength(len(other), other))),
		mismatch("zeros of the right length", gives(ofLength(len(whole), make([]byte, len(whole))))),
		mismatch("a digest that changes between HEAD and GET", gives(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Linked-Etag", strconv.Quote(zeros64))
			ofLength(len(other), other)(w, r)
		})),
		{name: "other bytes of a file whose name paints itself", refused: errMismatch, says: []string{`"model\u202egpj.\u2066bin"`}, repo: func(e *evil) {
			e.addLFS("model\u202egpj.\u2066bin", whole)
			e.on[onGet] = ofLength(len(other), other)
		}},
		waits("no bytes, though they are announced", gives(ofLength(len(whole), nil)), "unexpected EOF"),
		waits("fewer bytes, and said so", gives(ofLength(100, whole[:100])), "100 bytes came instead of 5000"),
		waits("more bytes, and said so", gives(ofLength(6000, noise(3, 6000))), "6000 bytes came instead of 5000"),
		mismatch("bytes without end", gives(func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, zeros{}) })),
		{name: "the right bytes, and then more without end", repo: givesOf(more, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(more)
			io.Copy(w, zeros{})
		})},
		waits("a gzip bomb", gives(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb)
		}), `encoded as "gzip"`),
		waits("a range in place of the whole", gives(ranged("bytes 0-4999/5000")), "a range came instead"),
		waits("the whole in place of a range", givesPieces(func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, zeros{}) }), "the whole file came instead"),
		waits("another range", givesPieces(ranged("bytes 0-4999/10000000000000")), `the range that came is "bytes 0-4999/10000000000000"`),
		waits("a range that is none", givesPieces(ranged("bytes -1--1/*")), "the range that came is"),
		waits("a page", gives(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<html>")
		}), "bytes came instead"),
		waits("redirects without end", gives(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", fmt.Sprintf("%s%d", r.URL.Path, time.Now().UnixNano()))
			w.WriteHeader(http.StatusFound)
		}), "more than 5 redirects"),
		waits("a redirect to a file", gives(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "file://localhost/etc/passwd")
			w.WriteHeader(http.StatusFound)
		}), `scheme "file"`),
		{name: "the right bytes, and then 4 MB of trailers", repo: givesOf(last, hijacked(func(c io.Writer) error {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n", len(last), last)
			_, err := io.WriteString(c, flood+"\r\n")
			return errors.Join(err, io.EOF)
		}))},
		waits("a chunk whose head does not end", gives(hijacked(func(c io.Writer) error {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
			_, err := io.CopyN(c, zeros{}, 4<<20)
			return errors.Join(err, io.EOF)
		})), "line too long"),
	})
}

// A Hub may take its time, and nobody else's: what is slower than 1 KiB/s is given up
// and tried again; what is not comes, however long that takes.
func TestHostileSlownessIsWaitedOutWithAReason(t *testing.T) {
	runTogether(t, 300*time.Millisecond, []hostileRow{
		{name: "content that never begins", repo: gives(never), waits: true, says: []string{"model.safetensors", "stalled with 0 bytes in 300ms"}},
		{name: "content that stops", repo: gives(drips(whole, 100, time.Hour)), waits: true, says: []string{"model.safetensors", "stalled with 100 bytes in 300ms"}},
		{name: "a byte every 50 ms", repo: gives(drips(whole, 1, 50*time.Millisecond)), waits: true, says: []string{"model.safetensors", "stalled with"}},
		{name: "2 KiB a second", repo: givesOf(noise(9, 5000), drips(noise(9, 5000), 205, 100*time.Millisecond))},
	})
}

// What is no content must come within a minute.
func TestHostileAnswersThatTakeTheirTimeEndAfterAMinute(t *testing.T) {
	if !*long {
		t.Skip("it takes the minute that an answer may take; make test-long runs it")
	}
	drip := drips(bytes.Repeat([]byte(" "), 100), 1, 5*time.Second)
	after := func(name string, repo func(*evil), says string) hostileRow {
		return hostileRow{name: name, repo: repo, waits: true, says: []string{says}, within: 80 * time.Second}
	}
	runTogether(t, time.Second, []hostileRow{
		after("a commit that drips", does(onRevision, drip), "no whole answer in 1m0s"),
		after("a listing that drips", does(onTree, drip), "no whole answer in 1m0s"),
		after("a commit that never comes", does(onRevision, never), "timeout awaiting response headers"),
		after("a proof that never comes", does(onHead, never), "timeout awaiting response headers"),
	})
}

// errMismatch is any MismatchError.
var errMismatch mismatch

type mismatch struct{}

func (mismatch) Error() string { return "a mismatch" }
