package hub_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// memory is a Sink that hashes what comes and keeps nothing.
type memory struct {
	mu   sync.Mutex
	here map[string]bool
}

func (m *memory) Begin(_ context.Context, f fetcher.File) (fetcher.Ingest, error) {
	return &ingest{file: f, data: make([]byte, f.Size)}, nil
}

func (m *memory) Commit(_ context.Context, ins []fetcher.Ingest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range ins {
		m.here[in.File().Path.String()] = true
	}
	return nil
}

type ingest struct {
	file fetcher.File
	data []byte
}

func (in *ingest) File() fetcher.File { return in.file }

func (in *ingest) Missing() []fetcher.Piece {
	var all []fetcher.Piece
	for i := range fetcher.Pieces(in.file.Size) {
		all = append(all, fetcher.PieceAt(i, in.file.Size))
	}
	return all
}

func (in *ingest) WritePiece(p fetcher.Piece, r io.Reader) error {
	_, err := io.ReadFull(r, in.data[p.Offset:p.Offset+p.Size])
	return err
}

func (in *ingest) Verify() error {
	h := fetcher.NewHasher(in.file.Digest.Algorithm(), in.file.Size)
	h.Write(in.data)
	if got, err := h.Digest(); err != nil || got != in.file.Digest {
		return &fetcher.MismatchError{File: in.file, Got: got, Err: err}
	}
	return nil
}

func (in *ingest) Close() error { return nil }

// fetchAll lists main and brings all of it.
func fetchAll(t *testing.T, h *hubtest.Hub, rev fetcher.Revision, token string) (*memory, error) {
	t.Helper()
	c, cred := newClient(t, h.URL()), fetcher.NewSecret(token)
	m, err := c.Manifest(t.Context(), rev, cred)
	if err != nil {
		t.Fatal(err)
	}
	e, err := fetcher.NewEngine(fetcher.EngineConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	sink := &memory{here: map[string]bool{}}
	err = e.Fetch(t.Context(), fetcher.Job{
		Sources: []fetcher.Source{c}, Revision: rev, Files: m.Files, Credential: cred, Sink: sink, Progress: func(_ string, n int64) { sum += n },
	})
	if err == nil && (sum != m.Bytes() || len(sink.here) != len(m.Files)) {
		t.Errorf("%d of %d bytes, %d of %d files", sum, m.Bytes(), len(sink.here), len(m.Files))
	}
	return sink, err
}

func withLarge() map[string][]byte {
	files := map[string][]byte{"large.bin": bytesOf(2*fetcher.PieceSize+12345, 7)}
	for path, content := range sample {
		files[path] = content
	}
	return files
}

func TestEngineFetchesAPrivateRepositoryThroughFaults(t *testing.T) {
	h := hubtest.New(t)
	rev := fetcher.Revision{Repo: repoOf(t, "org/name"), Commit: commitOf(t, h.AddRepo("org/name", withLarge()))}
	h.SetPrivate("org/name", "friend")
	large := withLarge()["large.bin"]
	var mu sync.Mutex
	faults := map[string]int{}
	h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		content := strings.HasPrefix(r.URL.Path, "/xet-bridge-us/")
		switch span := r.Header.Get("Range"); {
		case content && span != "" && faults["expired"] == 0:
			faults["expired"]++
			h.ExpireURLs()
		case content && span != "" && faults["cut"] == 0: // after a few bytes
			faults["cut"]++
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %s/%d", strings.TrimPrefix(span, "bytes="), len(large)))
			w.WriteHeader(http.StatusPartialContent)
			var from int
			fmt.Sscanf(span, "bytes=%d-", &from)
			w.Write(large[from : from+9999])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case strings.HasSuffix(r.URL.Path, "/README.md") && faults["busy"] == 0:
			faults["busy"]++
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	if _, err := fetchAll(t, h, rev, "friend"); err != nil {
		t.Fatal(err)
	}
	if len(faults) != 3 {
		t.Errorf("not every fault happened: %v", faults)
	}
}

func TestEngineNamesTheFileWhoseBytesAreWrong(t *testing.T) {
	h := hubtest.New(t)
	rev := fetcher.Revision{Repo: repoOf(t, "org/name"), Commit: commitOf(t, h.AddRepo("org/name", withLarge()))}
	h.Corrupt("org/name", "large.bin", 1)
	_, err := fetchAll(t, h, rev, "")
	var mismatch *fetcher.MismatchError
	if !errors.As(err, &mismatch) || mismatch.File.Path.String() != "large.bin" || mismatch.Source != "hub" {
		t.Errorf("%v", err)
	}
	if _, err := fetchAll(t, h, rev, ""); err != nil {
		t.Errorf("with good bytes: %v", err)
	}
}
