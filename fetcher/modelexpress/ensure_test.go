package modelexpress_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
)

// upstream is a Hub's side of a server that has nothing yet.
func upstream(t testing.TB) (hub, empty string) {
	hub = t.TempDir()
	write(t, hub, "org/name", commit, sample())
	put(t, filepath.Join(hub, "models--org--name/refs/main"), []byte(commit))
	return hub, t.TempDir()
}

func (w *world) wantAbsent(path, says string) {
	w.t.Helper()
	_, err := w.read(path)
	if !errors.Is(err, fetcher.ErrAbsent) || fetcher.Transient(err) || fetcher.Denied(err) || !strings.Contains(err.Error(), says) {
		w.t.Errorf("%s: %v; want that it is absent: %q", path, err, says)
	}
}

func (w *world) wantUnreachable(path, says string) {
	w.t.Helper()
	_, err := w.read(path)
	if !fetcher.Unreachable(err) || errors.Is(err, fetcher.ErrAbsent) || !strings.Contains(err.Error(), says) {
		w.t.Errorf("%s: %v; want that it is unreachable: %q", path, err, says)
	}
}

// wantLasting checks for an error that a person must mend and that accuses no credential.
func (w *world) wantLasting(path, says string) {
	w.t.Helper()
	_, err := w.read(path)
	if err == nil || fetcher.Transient(err) || errors.Is(err, fetcher.ErrAbsent) || fetcher.Denied(err) || !strings.Contains(err.Error(), says) {
		w.t.Errorf("%s: %v; want %q", path, err, says)
	}
}

func TestWhatIsNeverServedIsNotAskedFor(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{})
	for _, path := range []string{"README.md", ".gitattributes", "1_Pooling/config.json", "shot.png"} {
		w.wantAbsent(path, "neither sub-directories, dotfiles, README.md nor images")
	}
	w.rev = revision(t, "datasets/org/name", commit)
	w.wantAbsent("config.json", "no data sets")
	if n := len(w.server.Calls("EnsureModelDownloaded")); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestARevisionIsAskedForOnceWhateverIsOpened(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{Streams: 100})
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() { w.wantWhole("config.json") })
	}
	all.Wait()
	w.wantWhole("LICENSE")
	for _, method := range []string{"EnsureModelDownloaded", "ListModelFiles"} {
		if n := len(w.server.Calls(method)); n != 1 {
			t.Errorf("%s: %d times", method, n)
		}
	}
}

func TestWhatWasLearntIsBelievedForAWhileOnly(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{})
	w.client.Keep(time.Nanosecond)
	w.wantWhole("LICENSE")
	w.wantWhole("LICENSE")
	if n := len(w.server.Calls("ListModelFiles")); n != 2 {
		t.Errorf("listed %d times", n)
	}
}

func TestASilentDownloadIsWaitedFor(t *testing.T) {
	hub, dir := upstream(t)
	held, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir, Upstream: hub, Downloading: func(ctx context.Context, _, _ string) error {
		close(held)
		<-release
		return nil
	}}, modelexpress.Config{})
	w.client.Answer(time.Second) // the first update is an answer; what follows may take its time
	time.AfterFunc(1500*time.Millisecond, func() { <-held; close(release) })
	w.wantWhole("model.safetensors")
}

func TestADownloadThatTakesTooLongGoesOnWithoutUs(t *testing.T) {
	hub, dir := upstream(t)
	release := make(chan struct{})
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir, Upstream: hub, Downloading: func(context.Context, string, string) error {
		<-release
		return nil
	}}, modelexpress.Config{Wait: 200 * time.Millisecond})
	w.wantUnreachable("LICENSE", "still downloads after 200ms")
	for _, c := range w.server.Calls("EnsureModelDownloaded") {
		if c.Deadline {
			t.Error("the server is told when to end, and would say so first")
		}
	}
	close(release)
	eventually(t, "the download is over", func() bool { _, err := w.read("LICENSE"); return err == nil })
}

// Servers are known to say for ever that they download. Only the first pays for that.
func TestADownloadThatTookTooLongIsNotWaitedForAgain(t *testing.T) {
	hub, dir := upstream(t)
	release := make(chan struct{})
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir, Upstream: hub, Downloading: func(context.Context, string, string) error {
		<-release
		return nil
	}}, modelexpress.Config{Wait: 2 * time.Second})
	w.client.Keep(time.Nanosecond)
	w.wantUnreachable("LICENSE", "still downloads after 2s")
	began := time.Now()
	for range 3 {
		w.wantUnreachable("config.json", "still downloads after 2s")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the next three waited for %s", took)
	}
	release <- struct{}{}
	eventually(t, "the download is over", func() bool { _, err := w.read("LICENSE"); return err == nil })
	remove(t, filepath.Join(dir, "models--org--name"))
	time.AfterFunc(200*time.Millisecond, func() { close(release) })
	w.wantWhole("LICENSE") // another download is waited for
}

func TestAskingEndsWithTheLastWhoWaits(t *testing.T) {
	hub, dir := upstream(t)
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir, Upstream: hub, Downloading: func(ctx context.Context, _, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	}}, modelexpress.Config{})
	first, leaveFirst := context.WithCancelCause(t.Context())
	second, leaveSecond := context.WithCancelCause(t.Context())
	ended := make(chan error, 2)
	for _, ctx := range []context.Context{first, second} {
		go func() { _, err := w.client.Open(ctx, w.rev, w.file("LICENSE"), fetcher.Secret{}); ended <- err }()
	}
	eventually(t, "the server is asked", func() bool { return len(w.server.Calls("EnsureModelDownloaded")) == 1 })
	because := errors.New("the first is gone")
	leaveFirst(because)
	if err := <-ended; !errors.Is(err, because) {
		t.Errorf("%v", err)
	}
	if w.server.Waiting() != 1 {
		t.Errorf("%d calls wait, want the one that is shared", w.server.Waiting())
	}
	leaveSecond(because)
	<-ended
	eventually(t, "no call waits", func() bool { return w.server.Waiting() == 0 })
}

func TestAFailedDownloadIsToldAndTriedAgain(t *testing.T) {
	hub, dir := upstream(t)
	var tries atomic.Int32
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir, Upstream: hub, Downloading: func(context.Context, string, string) error {
		if tries.Add(1) == 1 {
			return errors.New("429 from the Hub\x1b[31m\n" + strings.Repeat("x", 1000))
		}
		return nil
	}}, modelexpress.Config{})
	w.wantUnreachable("LICENSE", "its download failed: Download failed: 429 from the Hub")
	_, err := w.read("LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(w.server.Calls("EnsureModelDownloaded")); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestWhatAServerSaysIsCleanedAndShort(t *testing.T) {
	hub, dir := upstream(t)
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir, Upstream: hub, Downloading: func(context.Context, string, string) error {
		return errors.New("bad\x1b[31m\n\x00" + strings.Repeat("é", 1000))
	}}, modelexpress.Config{})
	_, err := w.read("LICENSE")
	if err == nil || len(err.Error()) > 1000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
		t.Errorf("%q", err)
	}
}

// Pinned, unknown to it, and the Hub is not asked or does not know it either.
func TestARevisionThatTheServerCannotResolveIsAbsent(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{})
	w.rev = revision(t, "org/name", other)
	w.wantAbsent("LICENSE", "does not find it")
	w.rev = revision(t, "org/unknown", commit)
	w.wantAbsent("LICENSE", "does not find it")
}

// Since 0.6.0 it asks the Hub for a commit that it has; its list is of its disk.
func TestACommitOnDiskIsHadThoughTheServerDoesNotReachTheHub(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "org/name", commit, sample())
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir}, modelexpress.Config{})
	w.wantWhole("model.safetensors")
}

func TestAnotherServersDownloadIsAskedForAgain(t *testing.T) {
	hub, dir := upstream(t)
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0", Dir: dir, Upstream: hub}, modelexpress.Config{})
	w.server.Register("org/name", commit)
	w.wantWhole("LICENSE")
	if n := len(w.server.Calls("EnsureModelDownloaded")); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// Lists and streams are of what lies there, downloaded or not.
func TestAHalfDownloadedSnapshotIsSeen(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{})
	snapshot := filepath.Join(w.dir, "models--org--name/snapshots", commit)
	put(t, filepath.Join(snapshot, "model.safetensors"), w.files["model.safetensors"][:1000])
	put(t, filepath.Join(snapshot, ".modelexpress-1234"), w.files["model.safetensors"])
	remove(t, filepath.Join(snapshot, "LICENSE"))
	w.wantAbsent("model.safetensors", "has 1000 bytes instead of")
	w.wantAbsent("LICENSE", "does not list it")
	w.wantWhole("config.json")
}

// Up to 0.5.1 the books are kept by name alone.
func TestADownloadWithoutWeightsHidesThemInOldReleases(t *testing.T) {
	for release, hidden := range map[string]bool{"0.5.1": true, "0.7.0": false} {
		hub, dir := upstream(t)
		w := newWorld(t, modelexpresstest.Config{Release: release, Dir: dir, Upstream: hub}, modelexpress.Config{})
		ensureWithoutWeights(t, w.server.Address)
		if hidden {
			w.wantAbsent("model.safetensors", "does not list it")
		} else {
			w.wantWhole("model.safetensors")
		}
		w.wantWhole("config.json")
	}
}

// Releases before 0.2.2 know but one of the calls.
func TestServersThatStreamNothingAreToldSo(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.2.1"}, modelexpress.Config{})
	w.wantLasting("LICENSE", "older than 0.2.2")
	w.wantLasting("config.json", "older than 0.2.2")
	if n := len(w.server.Calls("EnsureModelDownloaded")); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestLinksAreFollowed(t *testing.T) {
	w := newWorld(t, modelexpresstest.Config{Release: "0.7.0"}, modelexpress.Config{})
	folder := filepath.Join(w.dir, "models--org--name")
	move(t, filepath.Join(folder, "snapshots", commit, "LICENSE"), filepath.Join(folder, "blob"))
	if err := os.Symlink("../../blob", filepath.Join(folder, "snapshots", commit, "LICENSE")); err != nil {
		t.Fatal(err)
	}
	w.wantWhole("LICENSE")
}
