package modelexpress_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

// Up to 0.5.1 a server serves its main, whatever it is asked for. One stream tells.
func TestAnotherCommitIsSeenOnTheFirstChunkAndRemembered(t *testing.T) {
	for _, release := range []string{"0.2.2", "0.4.0", "0.5.1"} {
		w := newWorld(t, modelexpresstest.Config{Release: release}, modelexpress.Config{Streams: 1})
		w.rev = revision(t, "org/name", other)
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { w.wantAbsent("model.safetensors", "it serves commit "+commit+", not "+other) })
		}
		all.Wait()
		if n := len(w.server.Calls("StreamModelFiles")); n != 1 {
			t.Errorf("%s: %d streams", release, n)
		}
	}
}

// A link in snapshots/ makes its name the commit's.
func TestANameThatIsNoCommitIsNotTheOneAskedFor(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.5.1"}, modelexpress.Config{})
	remove(t, filepath.Join(w.dir, "models--org--name/refs"))
	if err := os.Symlink(commit, filepath.Join(w.dir, "models--org--name/snapshots/latest")); err != nil {
		t.Fatal(err)
	}
	w.wantAbsent("LICENSE", `it serves commit "latest"`)
}

func TestAStreamThatNamesNoCommitIsNotUsed(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: func(c *chunk, stream chunkStream) error {
		c.CommitHash = nil
		return stream.Send(c)
	}}, modelexpress.Config{})
	w.wantAbsent("LICENSE", "it serves a commit that it does not name")
}

func TestACommitThatChangesInMidStreamEndsIt(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: func(c *chunk, stream chunkStream) error {
		if c.Offset > 1<<20 {
			c.CommitHash = proto.String(other)
		}
		return stream.Send(c)
	}}, modelexpress.Config{})
	w.wantAbsent("model.safetensors", "it serves commit "+other)
}

func TestAFileThatChangesItsSizeWhileItIsStreamed(t *testing.T) {
	for says, size := range map[string]int64{"it ends after": 1<<20 + 5, "more comes": 5 << 20} {
		var dir string
		w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Streaming: func(path string) {
			if err := os.Truncate(filepath.Join(dir, "models--org--name/snapshots", commit, path), size); err != nil {
				t.Error(err)
			}
		}}, modelexpress.Config{})
		dir = w.dir
		w.wantUnreachable("model.safetensors", says)
	}
}

// In a stream of all files the next one begins where the rest should come.
func TestAFileThatBecomesShorterBeforeAnotherOne(t *testing.T) {
	var dir string
	w := newWorld(t, modelexpresstest.Config{Release: "0.3.0", Streaming: func(path string) {
		if path == "model.safetensors" {
			if err := os.Truncate(filepath.Join(dir, "models--org--name/snapshots", commit, path), 1<<20); err != nil {
				t.Error(err)
			}
		}
	}}, modelexpress.Config{})
	dir = w.dir
	_, err := w.read("model.safetensors")
	if !fetcher.Unreachable(err) { // in whatever words: the order is the directory's
		t.Errorf("%v", err)
	}
}

func TestChunksThatMayNotBe(t *testing.T) {
	change := func(f func(c *chunk)) func(*chunk, chunkStream) error {
		return func(c *chunk, stream chunkStream) error {
			if c.Offset > 0 {
				f(c)
			}
			return stream.Send(c)
		}
	}
	for name, send := range map[string]func(*chunk, chunkStream) error{
		"empty ones": func(c *chunk, stream chunkStream) error {
			for c.Offset > 0 {
				if err := stream.Send(&chunk{RelativePath: c.RelativePath, Offset: c.Offset, TotalSize: c.TotalSize}); err != nil {
					return err
				}
			}
			return stream.Send(c)
		},
		"of another file":  change(func(c *chunk) { c.RelativePath = "../../etc/passwd" }),
		"of another size":  change(func(c *chunk) { c.TotalSize++ }),
		"from elsewhere":   change(func(c *chunk) { c.Offset = 0 }),
		"a last one early": change(func(c *chunk) { c.IsLastChunk = true }),
		"no last one":      change(func(c *chunk) { c.IsLastChunk = false }),
		"a huge one":       change(func(c *chunk) { c.Data = make([]byte, 5<<20) }),
		"beyond gRPC":      change(func(c *chunk) { c.Data = make([]byte, 17<<20) }),
		"of a huge size":   func(c *chunk, stream chunkStream) error { c.TotalSize = 1 << 63; return stream.Send(c) },
		"without a path":   func(c *chunk, stream chunkStream) error { c.RelativePath = ""; return stream.Send(c) },
		"none":             func(*chunk, chunkStream) error { return nil },
		"one after the last": func(c *chunk, stream chunkStream) error {
			if err := stream.Send(c); err != nil || !c.IsLastChunk {
				return err
			}
			c.Offset, c.Data = c.TotalSize, []byte("x")
			return stream.Send(c)
		},
	} {
		w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: send}, modelexpress.Config{})
		w.files["model.safetensors"] = bytesOf(7<<20, 3)
		write(t, w.dir, "org/name", commit, w.files)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		b, err := w.readWithin(ctx, "model.safetensors")
		cancel()
		if !fetcher.Unreachable(err) || !bytes.HasPrefix(w.files["model.safetensors"], b) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// Chunks may be shorter than what was asked for, as the server's reads are.
func TestShortChunksAreTaken(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: func(c *chunk, stream chunkStream) error {
		for off := 0; off < len(c.Data); off += 100_000 {
			part := proto.CloneOf(c)
			end := min(off+100_000, len(c.Data))
			part.Data, part.Offset = c.Data[off:end], c.Offset+uint64(off)
			part.IsLastChunk, part.IsLastFile = c.IsLastChunk && end == len(c.Data), c.IsLastFile && end == len(c.Data)
			if off > 0 {
				part.CommitHash = nil
			}
			if err := stream.Send(part); err != nil {
				return err
			}
		}
		return nil
	}}, modelexpress.Config{})
	w.wantWhole("model.safetensors")
}

func TestErrorsInMidStreamAreTrouble(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.Internal, codes.ResourceExhausted, codes.Aborted} {
		w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: func(c *chunk, stream chunkStream) error {
			if c.Offset > 0 {
				return status.Error(code, "Failed to read file: input/output error")
			}
			return stream.Send(c)
		}}, modelexpress.Config{})
		w.wantUnreachable("model.safetensors", "Failed to read file")
	}
}

func TestAModelThatGoesAwayIsAskedForAgain(t *testing.T) {
	hub, dir := upstream(t)
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir, Upstream: hub}, modelexpress.Config{})
	w.wantWhole("LICENSE")
	remove(t, filepath.Join(dir, "models--org--name"))
	w.wantWhole("config.json")
	if n := len(w.server.Calls("EnsureModelDownloaded")); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestRangesReadOnAndSkip(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{})
	o := must(w.open("model.safetensors"))(t)
	defer o.Close()
	if _, ok := o.(fetcher.Sequential); !ok {
		t.Error("it is not Sequential")
	}
	content := w.files["model.safetensors"]
	for _, r := range [][2]int64{{0, 10}, {10, 1 << 20}, {2 << 20, 5}, {2<<20 + 5, 1 << 20}} {
		if got, err := readRange(t, o, r[0], r[1]); err != nil || !bytes.Equal(got, content[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes from %d: %d came, %v", r[1], r[0], len(got), err)
		}
	}
	if n := len(w.server.Calls("StreamModelFiles")); n != 1 {
		t.Errorf("%d streams", n)
	}
	if got, err := readRange(t, o, 5, 10); err != nil || !bytes.Equal(got, content[5:15]) { // as after an error of the sink's
		t.Errorf("back: %d bytes, %v", len(got), err)
	}
}

func TestTwoRangesAtATimeAreRefused(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{})
	o := must(w.open("model.safetensors"))(t)
	defer o.Close()
	r := must(o.ReadRange(t.Context(), 0, 10))(t)
	if _, err := o.ReadRange(t.Context(), 10, 10); err == nil {
		t.Error("a second one began")
	}
	r.Close()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}

// What was discarded up to a late range stays so when that range is given up: a resume of
// a large file gets there in the end.
func TestAStreamThatFlowsOutlivesARangeThatIsGivenUp(t *testing.T) {
	slow := make(chan struct{})
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: func(c *chunk, stream chunkStream) error {
		if c.Offset == 2<<20 {
			<-slow
		}
		return stream.Send(c)
	}}, modelexpress.Config{})
	o := must(w.open("model.safetensors"))(t)
	defer o.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r := must(o.ReadRange(ctx, 3<<20, 10))(t)
	if _, err := r.Read(make([]byte, 10)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	r.Close()
	close(slow)
	if got, err := readRange(t, o, 3<<20, 10); err != nil || !bytes.Equal(got, w.files["model.safetensors"][3<<20:3<<20+10]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := len(w.server.Calls("StreamModelFiles")); n != 1 {
		t.Errorf("%d streams", n)
	}
}

func TestAStreamThatIsStuckIsBegunAnew(t *testing.T) {
	var once sync.Once
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: func(c *chunk, stream chunkStream) (err error) {
		if c.Offset > 0 {
			once.Do(func() { err = stuck(stream) })
		}
		if err != nil {
			return err
		}
		return stream.Send(c)
	}}, modelexpress.Config{})
	o := must(w.open("model.safetensors"))(t)
	defer o.Close()
	content := w.files["model.safetensors"]
	if got, err := readRange(t, o, 0, 1<<20); err != nil || !bytes.Equal(got, content[:1<<20]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r := must(o.ReadRange(ctx, 1<<20, 10))(t)
	if _, err := io.ReadAll(r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	r.Close()
	if got, err := readRange(t, o, 1<<20, 10); err != nil || !bytes.Equal(got, content[1<<20:1<<20+10]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAServerThatDoesNotAnswerIsUnreachable(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Send: func(_ *chunk, stream chunkStream) error { return stuck(stream) }}, modelexpress.Config{})
	w.client.Answer(300 * time.Millisecond)
	w.wantUnreachable("LICENSE", "no answer in 300ms")
}
