package agent_test

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
)

// Whoever may read a Repo may have any of its commits listed, and a listing may be long:
// on a disk that is full for downloads none is written.
func TestAListingThatThereIsNoRoomForIsServedAndNotKept(t *testing.T) {
	w := newWorld(t)
	w.full = true
	w.start()
	w.hub.AddRepo("org/name", small(1))
	repo := request("", "org/name").Repo
	m, err := w.Listing(t.Context(), agent.Caller{}, repo, ref("main"))
	must(t, err)
	if _, err := w.store.Manifest(w.origin("org/name"), m.Revision.Commit); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is on disk: %v", err)
	}
	w.hub.ResetRequests()
	again, err := w.Listing(t.Context(), agent.Caller{}, repo, ref("main"))
	if asked := w.hub.Requests(); err != nil || len(again.Files) != len(m.Files) || len(asked) != 0 {
		t.Errorf("again: %v, %v, by asking %v", again, err, asked)
	}
}

func TestWhatNeedsNoDownloadIsGivenOnADiskThatIsFullForThem(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	files := small(1)
	w.hub.AddRepo("org/name", files)
	w.must(request("one", "org/name"))
	w.halt()
	w.full = true
	w.start()
	w.sees(w.must(request("a hit", "org/name")), files)
	delete(files, "empty")
	w.hub.AddRepo("org/name", files) // another commit, of bytes that are here
	w.sees(w.must(request("moved", "org/name")), files)
	w.sees(w.must(request("and again", "org/name")), files)
}
