package agent_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// A download may outlast the proof that let its waiter in: what counts is the moment at
// which the View is pinned. The content's own server never sees a token, so no request of
// the Flight meets the revocation.
func TestAViewIsPinnedUnderAProofOfThatMoment(t *testing.T) {
	for name, tc := range map[string]struct {
		proofFor time.Duration
		want     error
	}{
		"the proof still counts": {time.Hour, nil},
		"the proof has aged":     {time.Millisecond, fetcher.ErrBadToken},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.ProofFor = tc.proofFor
			w.start()
			w.hub.AddRepo("org/private", map[string][]byte{"model.safetensors": noise(1, 50_000)})
			w.hub.SetPrivate("org/private", "good")
			release := w.hub.Hold("org/private", "model.safetensors")
			req := request("one", "org/private", token("good"))
			stop, ended := w.acquireAside(req)
			defer stop()
			w.until("the bytes are asked for", func() bool {
				for _, r := range w.hub.Requests() {
					if r.Kind == "cdn" {
						return true
					}
				}
				return false
			})
			w.hub.ResetRequests()
			w.hub.RevokeToken("good")
			release()
			if err := <-ended; !errors.Is(err, tc.want) {
				t.Errorf("the call ended with %v, want %v", err, tc.want)
			}
			pinned := tc.want == nil
			if got := len(w.pins()) == 1; got != pinned {
				t.Errorf("pins %v", w.pins())
			}
			if asked := w.hub.Requests(); pinned && len(asked) != 0 {
				t.Errorf("a proof that counts was asked for again: %+v", asked)
			}
		})
	}
}

// 64 patterns of stars against many paths take minutes: that is its own Flight's time.
func TestAHostileFilterCostsNobodyElseAndEndsWithItsVolume(t *testing.T) {
	w := newWorld(t).start()
	w.hub.PageSize(10_000)
	files := map[string][]byte{}
	for i := range 20_000 {
		files[fmt.Sprintf("%s/%05d.txt", strings.Repeat("a", 200), i)] = []byte("x")
	}
	w.hub.AddRepo("evil/many", files)
	w.hub.AddRepo("org/name", small(1))
	var patterns []string
	for i := range 64 {
		patterns = append(patterns, strings.Repeat("*a", 26)+fmt.Sprintf("*b%02d", i))
	}
	hostile, err := fetcher.NewFilter(patterns, nil)
	must(t, err)
	req := request("evil", "evil/many", func(r *agent.Request) { r.Filter = hostile })
	began := time.Now()
	for w.flights() == 0 {
		waiting := w.waits(req, 300*time.Millisecond)
		if w.flights() > 0 {
			contains(t, waiting.Progress, "evil/many@", "choosing files")
		}
	}
	w.must(request("one", "org/name"))
	if w.flights() == 0 {
		t.Fatalf("choosing took less than %s: this test shows nothing", time.Since(began))
	}
	must(t, w.Release(t.Context(), req.Volume))
	w.until("the flight has ended", func() bool { return w.flights() == 0 })
}
