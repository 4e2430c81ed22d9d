package modelexpress_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

// Before 0.4.0 a server streams all files whatever it is asked for. A few such streams
// bring whatever many have opened.
func TestOldReleasesGiveAllFilesInFewStreams(t *testing.T) {
	for _, release := range []string{"0.2.2", "0.3.0"} {
		w := newWorld(t, modelexpresstest.Config{Release: release}, modelexpress.Config{})
		snapshot := map[string][]byte{"empty": {}, "-rf": []byte("odd")}
		for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9} {
			snapshot[string(rune('a'+n))+".bin"] = bytesOf(n*300_000, byte(n))
		}
		write(t, w.dir, "org/name", commit, snapshot)
		delete(snapshot, "empty") // nobody opens it
		maps.Copy(w.files, snapshot)
		var all sync.WaitGroup
		for path := range snapshot {
			all.Go(func() { w.wantWhole(path) })
		}
		all.Wait()
		if n := len(w.server.Calls("StreamModelFiles")); n > 4+3 { // of which 4 to find out
			t.Errorf("%s: %d streams for %d files", release, n, len(snapshot))
		}
		before := len(w.server.Calls("StreamModelFiles"))
		w.wantWhole("LICENSE")
		if n := len(w.server.Calls("StreamModelFiles")) - before; n != 1 {
			t.Errorf("%s: %d streams for one more file: what it does is known by now", release, n)
		}
	}
}

func TestAFileThatIsNotAmongThemIsAbsent(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.3.0", Send: func(c *chunk, stream chunkStream) error {
		if c.RelativePath == "LICENSE" { // though it is listed
			return nil
		}
		c.CommitHash = proto.String(commit) // of the first, which LICENSE may have been
		return stream.Send(c)
	}}, modelexpress.Config{})
	w.wantAbsent("LICENSE", "not among the files that come")
}

// A file that is opened and not read holds up the others for a while only, and is begun
// anew when it is.
func TestAFileThatNobodyReadsHoldsUpTheOthersForAWhile(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.3.0"}, modelexpress.Config{})
	w.client.Unread(300 * time.Millisecond)
	unread := must(w.open("model.safetensors"))(t)
	defer unread.Close()
	var all sync.WaitGroup
	for _, path := range []string{"LICENSE", "config.json"} {
		all.Go(func() { w.wantWhole(path) })
	}
	all.Wait()
	content := w.files["model.safetensors"]
	got, err := readRange(t, unread, 0, int64(len(content)))
	if fetcher.Unreachable(err) { // the stream was given up: as the engine does, once more
		got, err = readRange(t, unread, 0, int64(len(content)))
	}
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestATourEndsWithTheLastWhoWaits(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.3.0", Send: func(_ *chunk, stream chunkStream) error { return stuck(stream) }}, modelexpress.Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() { _, err := w.client.Open(ctx, w.rev, w.file("LICENSE"), fetcher.Secret{}); ended <- err }()
	eventually(t, "a stream is open", func() bool { return len(w.server.Calls("StreamModelFiles")) > 0 })
	because := errors.New("nobody waits")
	cancel(because)
	if err := <-ended; !errors.Is(err, because) {
		t.Errorf("%v", err)
	}
	eventually(t, "no stream is open", func() bool { return w.server.Streams() == 0 })
}
