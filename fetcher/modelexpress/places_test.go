package modelexpress_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

func TestStreamsAtOnceAreBounded(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{Streams: 3})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { w.wantWhole("model.safetensors") })
	}
	all.Wait()
	if n := w.server.MostStreams(); n > 3+1 { // one may be ending, over there
		t.Errorf("%d streams at once", n)
	}
}

func TestAFileThatIsReadGivesItsPlaceBeforeItIsClosed(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{Streams: 1})
	o := must(w.open("model.safetensors"))(t)
	defer o.Close()
	if _, err := readRange(t, o, 0, w.file("model.safetensors").Size); err != nil {
		t.Fatal(err)
	}
	w.wantWhole("LICENSE")
}

// Whoever reads one file may be waiting for the other.
func TestAnIdleStreamGivesItsPlaceToAFileThatIsRead(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{Streams: 1})
	content := bytesOf(20<<20, 4) // more than may be on its way
	w.files["model.safetensors"] = content
	write(t, w.dir, "org/name", commit, w.files)
	idle := must(w.open("model.safetensors"))(t)
	defer idle.Close()
	if got, err := readRange(t, idle, 0, 100); err != nil || !bytes.Equal(got, content[:100]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("no place yet"))
	defer cancel()
	if _, err := w.client.Open(ctx, w.rev, w.file("LICENSE"), fetcher.Secret{}); err == nil || err.Error() != "wait for one of 1 streams of org/name@0123456 from "+w.server.Address+": no place yet" {
		t.Errorf("opened while the place is another's: %v", err)
	}
	// An Object that was opened and lost its place is in the same need as this one.
	second := w.reopened("LICENSE")
	defer second.Close()
	if got, err := readRange(t, second, 0, 5); err != nil || !bytes.Equal(got, w.files["LICENSE"]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	eventually(t, "the idle stream is ended", func() bool { return w.server.Streams() == 0 })
	if got, err := readRange(t, idle, 100, 100); err != nil || !bytes.Equal(got, content[100:200]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// reopened returns an Object whose stream was ended.
func (w *world) reopened(path string) fetcher.Object {
	return modelexpress.Unbegun(w.client, w.rev, w.file(path))
}
