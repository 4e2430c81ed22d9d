package hub

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// contentWriter sends the answer to a GET of a file, as its repository's faults have
// it, and counts what was sent.
type contentWriter struct {
	http.ResponseWriter
	ctx     context.Context // ends when the client is gone
	repo    *repository
	path    string
	content bool  // the answer is the file or a range of it
	offset  int64 // in the file, of the next byte
	sent    int64 // bytes of content
}

// Unwrap lets http.ResponseController flush.
func (w *contentWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader sends the headers at once: what the body then meets, they came before.
func (w *contentWriter) WriteHeader(status int) {
	switch status {
	case http.StatusPartialContent:
		_, err := fmt.Sscanf(w.Header().Get("Content-Range"), "bytes %d-", &w.offset)
		w.content = err == nil // else several ranges, which nobody asks for
	case http.StatusOK:
		w.content = true
	}
	w.ResponseWriter.WriteHeader(status)
	if w.content {
		_ = http.NewResponseController(w.ResponseWriter).Flush() // the next write fails too
	}
}

func (w *contentWriter) Write(p []byte) (int, error) {
	if !w.content {
		return w.ResponseWriter.Write(p)
	}
	written := 0
	for written < len(p) {
		n, err := w.repo.next(w.ctx, w.sent, len(p)-written)
		if err != nil {
			return written, err
		}
		n, err = w.send(w.repo.flip(w.path, w.offset, p[written:written+n]))
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// send sends part and has it leave.
func (w *contentWriter) send(part []byte) (int, error) {
	n, err := w.ResponseWriter.Write(part)
	if err == nil {
		err = http.NewResponseController(w.ResponseWriter).Flush()
	}
	w.offset += int64(n)
	w.sent += int64(n)
	w.repo.countContent(w.path, n)
	return n, err
}

// Traffic is what was asked and sent of a repository.
type Traffic struct {
	Requests int              // of any kind
	Bytes    map[string]int64 // content sent, by path; of all revisions together
	Last     time.Time        // when the last byte of content was sent; zero: none was
}

// Total is the content sent, in bytes.
func (t Traffic) Total() int64 {
	var sum int64
	for _, n := range t.Bytes {
		sum += n
	}
	return sum
}

// Since returns what came after earlier.
func (t Traffic) Since(earlier Traffic) Traffic {
	since := Traffic{Requests: t.Requests - earlier.Requests, Bytes: map[string]int64{}}
	for path, n := range t.Bytes {
		if n -= earlier.Bytes[path]; n > 0 {
			since.Bytes[path] = n
		}
	}
	if t.Last.After(earlier.Last) {
		since.Last = t.Last
	}
	return since
}

// Traffic returns what was asked and sent of repo so far.
func (h *Hub) Traffic(repo string) Traffic {
	r := h.repository(repo)
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.traffic
	t.Bytes = maps.Clone(t.Bytes)
	return t
}

func (r *repository) countRequest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.traffic.Requests++
}

func (r *repository) countContent(path string, n int) {
	if n == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.traffic.Bytes[path] += int64(n)
	r.traffic.Last = time.Now()
}
