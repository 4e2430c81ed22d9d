package fetcher_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testRevision = func() fetcher.Revision {
	repo, err1 := fetcher.ParseRepo("org/name")
	commit, err2 := fetcher.ParseCommit("0123456789abcdef0123456789abcdef01234567")
	if err := errors.Join(err1, err2); err != nil {
		panic(err)
	}
	return fetcher.Revision{Repo: repo, Commit: commit}
}()

// fileOf describes content that a test makes up.
func fileOf(t testing.TB, path string, content []byte) fetcher.File {
	t.Helper()
	p, err := fetcher.ParsePath(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	d, err := fetcher.NewDigest(fetcher.SHA256, hex.EncodeToString(sum[:]))
	if err != nil {
		t.Fatal(err)
	}
	return fetcher.File{Path: p, Size: int64(len(content)), Digest: d}
}

// wait lets d pass, on the clock of the test's bubble.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask is one ReadRange.
type ask struct {
	path   string
	off, n int64
	at     time.Duration // since the source was made
}

// fakeSource serves files from memory. Hooks change what a test is about.
type fakeSource struct {
	name    string
	content map[string][]byte // by path; what is not there is absent
	started time.Time
	// open may end an Open with an error, or wait.
	open func(ctx context.Context, path string) error
	// sequential says that its Objects are.
	sequential bool
	// each may end a request with an error, or replace its reader.
	each func(ctx context.Context, a ask, r io.Reader) (io.Reader, error)

	mu           sync.Mutex
	asks         []ask
	busy, atMost int // requests open now, and at most
	opened       map[string]int
	closed       int
}

func newSource(content map[string][]byte) *fakeSource {
	return &fakeSource{name: "fake", content: content, started: time.Now(), opened: map[string]int{}}
}

func (s *fakeSource) Name() string { return s.name }

func (s *fakeSource) Open(ctx context.Context, _ fetcher.Revision, f fetcher.File, cred fetcher.Secret) (fetcher.Object, error) {
	if s.open != nil {
		if err := s.open(ctx, f.Path.String()); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if cred.Reveal() != "token" {
		return nil, errors.New("the credential did not come through")
	}
	if _, ok := s.content[f.Path.String()]; !ok {
		return nil, fmt.Errorf("%s at %s: %w", f.Path, s.name, fetcher.ErrAbsent)
	}
	s.opened[f.Path.String()]++
	o := &fakeObject{s, f}
	if s.sequential {
		return sequentialObject{o}, nil
	}
	return o, nil
}

type sequentialObject struct{ *fakeObject }

func (sequentialObject) Sequential() {}

type fakeObject struct {
	s *fakeSource
	f fetcher.File
}

func (o *fakeObject) Close() error {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.closed++
	return nil
}

func (o *fakeObject) ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s := o.s
	a := ask{o.f.Path.String(), off, n, time.Since(s.started)}
	s.mu.Lock()
	s.asks = append(s.asks, a)
	s.busy++
	s.atMost = max(s.atMost, s.busy)
	s.mu.Unlock()
	done := sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy--
	})
	var r io.Reader = bytes.NewReader(s.content[a.path][off : off+n])
	if s.each != nil {
		var err error
		if r, err = s.each(ctx, a, r); err != nil {
			done()
			return nil, err
		}
	}
	return &fakeBody{ctx, r, done}, nil
}

type fakeBody struct {
	ctx  context.Context
	r    io.Reader
	done func()
}

// CloneTo is that of the reader, if it has one.
func (b *fakeBody) CloneTo(dst *os.File, off int64) error {
	if c, ok := b.r.(*cloneReader); ok {
		return c.CloneTo(dst, off)
	}
	return errors.ErrUnsupported
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, b.ctx.Err()
	}
	return b.r.Read(p)
}

func (b *fakeBody) Close() error { b.done(); return nil }

func (s *fakeSource) asked() []ask {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]ask(nil), s.asks...)
}

// readFunc is a reader made of a function.
type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// testPiece is the fake sink's Piece size in bytes: the engine takes Pieces as the
// Ingest lists them.
const testPiece = 1000

// memSink keeps bytes in memory. Hooks change what a test is about.
type memSink struct {
	begin  func(ctx context.Context, f fetcher.File) error
	write  func(f fetcher.File, p fetcher.Piece) error
	verify func(f fetcher.File) error
	commit func(n int) error
	close  func(f fetcher.File) error
	greedy bool  // a Piece is read to the reader's end
	piece  int64 // bytes; 0: testPiece

	mu           sync.Mutex
	here         map[fetcher.Digest][]byte // committed
	partial      map[fetcher.Digest]*memIngest
	begun        []string
	open, atMost int
	batches      []int
}

func newSink() *memSink {
	return &memSink{here: map[fetcher.Digest][]byte{}, partial: map[fetcher.Digest]*memIngest{}}
}

func (s *memSink) Begin(ctx context.Context, f fetcher.File) (fetcher.Ingest, error) {
	if s.begin != nil {
		if err := s.begin(ctx, f); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = append(s.begun, f.Path.String())
	if _, ok := s.here[f.Digest]; ok {
		return nil, nil
	}
	s.open++
	s.atMost = max(s.atMost, s.open)
	in := s.partial[f.Digest]
	if in == nil {
		in = &memIngest{sink: s, file: f, data: make([]byte, f.Size), held: map[int]bool{}}
		s.partial[f.Digest] = in
	}
	return in, nil
}

func (s *memSink) Commit(ctx context.Context, ins []fetcher.Ingest) error {
	if s.commit != nil {
		if err := s.commit(len(ins)); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, len(ins))
	for _, in := range ins {
		in := in.(*memIngest)
		if !in.verified {
			return fmt.Errorf("%s was committed without being verified", in.file.Path)
		}
		s.here[in.file.Digest] = in.data
		delete(s.partial, in.file.Digest)
	}
	return nil
}

func (s *memSink) has(f fetcher.File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.here[f.Digest]
	return ok
}

// memIngest is one file on its way in.
type memIngest struct {
	sink     *memSink
	file     fetcher.File
	verified bool

	mu   sync.Mutex
	data []byte
	held map[int]bool
}

func (in *memIngest) File() fetcher.File { return in.file }

func (in *memIngest) Missing() []fetcher.Piece {
	in.mu.Lock()
	defer in.mu.Unlock()
	var missing []fetcher.Piece
	size := cmp.Or(in.sink.piece, testPiece)
	for i, off := 0, int64(0); off < in.file.Size; i, off = i+1, off+size {
		if !in.held[i] {
			missing = append(missing, fetcher.Piece{Index: i, Offset: off, Size: min(size, in.file.Size-off)})
		}
	}
	return missing
}

func (in *memIngest) WritePiece(p fetcher.Piece, r io.Reader) error {
	buffer := make([]byte, testPiece+100)
	if in.sink.greedy {
		n, err := io.ReadAtLeast(r, buffer, int(p.Size))
		if err != nil || n != int(p.Size) {
			return fmt.Errorf("%d bytes for a piece of %d, %v", n, p.Size, err)
		}
		copy(in.data[p.Offset:], buffer[:n])
	} else if _, err := io.ReadFull(r, in.data[p.Offset:p.Offset+p.Size]); err != nil {
		return fmt.Errorf("keep piece: %v", err) // a sink need not pass the source's error on
	}
	if in.sink.greedy {
		if more, err := io.ReadAll(r); len(more) > 0 || err != nil {
			return fmt.Errorf("%d bytes beyond the piece, %v", len(more), err)
		}
	}
	if in.sink.write != nil {
		if err := in.sink.write(in.file, p); err != nil {
			return err
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.held[p.Index] = true
	return nil
}

func (in *memIngest) Verify() error {
	if in.sink.verify != nil {
		if err := in.sink.verify(in.file); err != nil {
			return err
		}
	}
	h := fetcher.NewHasher(in.file.Digest.Algorithm(), in.file.Size)
	h.Write(in.data)
	got, err := h.Digest()
	if err != nil || got != in.file.Digest {
		in.mu.Lock()
		defer in.mu.Unlock()
		clear(in.held)
		return &fetcher.MismatchError{File: in.file, Got: got, Err: err}
	}
	in.verified = true
	return nil
}

func (in *memIngest) Close() error {
	in.sink.mu.Lock()
	in.sink.open--
	in.sink.mu.Unlock()
	if in.sink.close != nil {
		return in.sink.close(in.file)
	}
	return nil
}
