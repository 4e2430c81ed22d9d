package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// soon is how long what is to happen at once may take on a machine that is busy.
const soon = 10 * time.Second

func (h Harness) lacks(c Content) bool { return h.Lacks != nil && h.Lacks(c.Path.String()) }

// open opens c, or fails the test.
func (h Harness) open(t *testing.T, c Content) (o fetcher.Object, sequential bool) {
	t.Helper()
	o, err := h.Source.Open(t.Context(), h.Revision, c.File, h.Credential)
	if err != nil {
		t.Fatalf("open %s: %v", c.Path, err)
	}
	_, sequential = o.(fetcher.Sequential)
	return o, sequential
}

// read reads a range to its end.
func read(ctx context.Context, o fetcher.Object, off, n int64) ([]byte, error) {
	r, err := o.ReadRange(ctx, off, n)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// exact reads a range and compares it.
func exact(ctx context.Context, o fetcher.Object, c Content, off, n int64) error {
	b, err := read(ctx, o, off, n)
	if err != nil || !bytes.Equal(b, c.Bytes[off:off+n]) {
		return fmt.Errorf("%s, %d bytes from %d: %d came, as they should be: %v, %w", c.Path, n, off, len(b), bytes.Equal(b, c.Bytes[off:off+n]), err)
	}
	return nil
}

func wholeFiles(t *testing.T, h Harness, all []Content) {
	x := bring(t.Context(), t, h, all, h.Source, inMemory(all))
	if x.err != nil {
		t.Fatal(x.err)
	}
	want := map[string]int64{}
	for _, c := range all {
		path, passed := c.Path.String(), x.passed[c.Path.String()]
		if x.sink.here[path] == nil {
			t.Errorf("%s did not come", path)
		}
		switch {
		case c.Size == 0:
		case h.lacks(c):
			want["honest"] += c.Size
			if len(passed) != 1 || passed[0].Why != fetcher.PassedAbsent {
				t.Errorf("%s, which is not there: passed over as %+v", path, passed)
			}
		default:
			want[h.Source.Name()] += c.Size
			if len(passed) != 0 {
				t.Errorf("%s: passed over: %+v", path, passed)
			}
		}
	}
	for source, n := range want {
		if x.bytes[source] != n {
			t.Errorf("%d bytes came from %s, want %d", x.bytes[source], source, n)
		}
	}
}

func ranges(t *testing.T, h Harness, all []Content) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range all {
		if c.Size == 0 || h.lacks(c) {
			continue
		}
		o, sequential := h.open(t, c)
		defer o.Close()
		if sequential {
			inOrder(t, o, c, random)
			continue
		}
		var readers sync.WaitGroup
		for range 8 {
			off := random.Int64N(c.Size)
			n := 1 + random.Int64N(c.Size-off)
			readers.Go(func() {
				if err := exact(t.Context(), o, c, off, n); err != nil {
					t.Error(err)
				}
			})
		}
		readers.Go(func() {
			if err := exact(t.Context(), o, c, c.Size-1, 1); err != nil {
				t.Error(err)
			}
		})
		readers.Wait()
	}
}

// inOrder reads c in one range after the other, some of which are left out, for they are
// held; and some broken off and taken up again, as after an error.
func inOrder(t *testing.T, o fetcher.Object, c Content, random *rand.Rand) {
	for off := int64(0); off < c.Size; {
		n := 1 + random.Int64N(c.Size-off)
		switch random.IntN(3) {
		case 0:
			if r, err := o.ReadRange(t.Context(), off, n); err != nil {
				t.Error(err)
			} else {
				got := make([]byte, min(n, 10))
				if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, c.Bytes[off:off+int64(len(got))]) {
					t.Errorf("%s, from %d: the first bytes are others, or %v", c.Path, off, err)
				}
				r.Close()
				n = int64(len(got))
			}
		case 1:
			if err := exact(t.Context(), o, c, off, n); err != nil {
				t.Error(err)
			}
		}
		off += n
	}
}

func outside(t *testing.T, h Harness, all []Content) {
	for _, c := range all {
		if c.Size == 0 || h.lacks(c) {
			continue
		}
		for _, r := range [][2]int64{{c.Size, 1}, {c.Size - 1, 2}, {-1, 1}, {0, c.Size + 1}, {1 << 62, 1 << 62}} {
			o, _ := h.open(t, c)
			if b, err := read(t.Context(), o, r[0], r[1]); err == nil {
				t.Errorf("%s of %d bytes: %d bytes from %d: %d came without an error", c.Path, c.Size, r[1], r[0], len(b))
			}
			o.Close()
		}
	}
}

func cancelled(t *testing.T, h Harness, all []Content) {
	for _, c := range all {
		if c.Size < fetcher.PieceSize || h.lacks(c) {
			continue
		}
		o, _ := h.open(t, c)
		defer o.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, err := o.ReadRange(ctx, 0, c.Size)
		if err != nil {
			t.Errorf("%s: %v", c.Path, err)
			continue
		}
		_, _ = r.Read(make([]byte, 10))
		cancel()
		began := time.Now()
		if _, err := io.Copy(io.Discard, r); err == nil {
			t.Errorf("%s: all of it came after the context had ended", c.Path)
		}
		if took := time.Since(began); took > soon {
			t.Errorf("%s: reading took %s to end", c.Path, took)
		}
		r.Close()
	}
}

// leaks looks at this process's open files after a first round, which may have opened what
// stays (connections), and after more. Goroutines are for the package's TestMain to see.
func leaks(t *testing.T, make_ Make, all []Content) {
	h := make_(t, all)
	round := func() {
		if x := bring(t.Context(), t, h, all, h.Source, inMemory(all)); x.err != nil {
			t.Fatal(x.err)
		}
		for _, c := range all {
			if c.Size > 0 && !h.lacks(c) {
				o, _ := h.open(t, c)
				if r, err := o.ReadRange(t.Context(), 0, 1); err != nil { // and left unread
					t.Error(err)
				} else {
					r.Close()
				}
				o.Close()
			}
		}
	}
	round()
	first := openFiles(t)
	for range 3 {
		round()
	}
	// What the far end closes it closes in its own time.
	for began := time.Now(); openFiles(t) > first+slack; time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > soon {
			t.Fatalf("%d files were open after one round, %d after four", first, openFiles(t))
		}
	}
}

// slack is how many more connections of a pool a later round may use.
const slack = 8

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
