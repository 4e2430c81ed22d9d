package agent_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// usedUp answers requests for content of whose with a rate limit that ends in minutes.
func usedUp(whose string) func(who string, rw http.ResponseWriter, r *http.Request) bool {
	return func(who string, rw http.ResponseWriter, r *http.Request) bool {
		if who != whose || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/resolve/") {
			return false
		}
		rw.Header().Set("RateLimit", `"resolvers";r=0;t=290`)
		rw.WriteHeader(http.StatusTooManyRequests)
		return true
	}
}

func TestALimitOnOneWaitersTokenHoldsUpNoOther(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddRepo("org/private", small(1))
	w.hub.SetPrivate("org/private", "used-up", "good")
	asked := w.record(usedUp("used-up"))
	stop, ended := w.acquireAside(request("first", "org/private", token("used-up")))
	defer func() { stop(); <-ended }()
	w.until("its limit is met", func() bool { return strings.Contains(fmt.Sprint(asked.take()), "used-up GET /org/private/resolve/") })
	time.Sleep(100 * time.Millisecond) // it waits for the limit's end; what joins earlier shows less
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := w.Acquire(ctx, request("second", "org/private", token("good"))); err != nil {
		t.Errorf("with a good token: %v", err)
	}
}

func TestTheAnonymousLimitHoldsUpNobodyWithAToken(t *testing.T) {
	w := newWorld(t).start()
	w.hub.AddToken("good")
	w.hub.AddRepo("org/name", small(1))
	w.record(usedUp("-"))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := w.Acquire(ctx, request("one", "org/name", token("good"))); err != nil {
		t.Errorf("with a token: %v", err)
	}
}

func TestADownloadAsTheNodeIsLookedAtAgainAndNotCut(t *testing.T) {
	for name, head := range map[string]int{"anybody may read": 0, "the Hub cannot be asked": http.StatusServiceUnavailable} {
		t.Run(name, func(t *testing.T) {
			const held = "model-00002-of-00002.safetensors"
			w := newWorld(t).lend("node")
			w.cfg.RefMaxAge, w.cfg.ProofFor = time.Nanosecond, 20*time.Millisecond
			w.start()
			w.hub.AddRepo("org/name", small(1))
			release := w.hub.Hold("org/name", held)
			defer release()
			var reads, looks atomic.Int64
			w.record(func(who string, rw http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, held):
					reads.Add(1)
				case who == "-" && r.Method == http.MethodHead && reads.Load() > 0:
					looks.Add(1)
					if head != 0 {
						rw.WriteHeader(head)
						return true
					}
				}
				return false
			})
			stop, ended := w.acquireAside(request("one", "org/name"))
			defer func() { stop(); <-ended }()
			w.until("it is looked at again", func() bool { return looks.Load() > 3 })
			release()
			w.until("it has come", func() bool { return w.flights() == 0 })
			if n := reads.Load(); n != 1 {
				t.Errorf("the file was asked for %d times", n)
			}
		})
	}
}

func TestAFlightOfWhatWasReplacedEndsAndItsVolumesAskAnew(t *testing.T) {
	w := newWorld(t).lend("node")
	w.cfg.RefMaxAge, w.cfg.ProofFor = time.Nanosecond, 2*time.Second // time for the other to come first
	w.start()
	w.hub.AddRepo("org/name", small(1))
	release := w.hub.Hold("org/name", "model-00002-of-00002.safetensors")
	defer release()
	asked := w.record(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	var got agent.Mountable
	go func() {
		var err error
		got, err = w.Acquire(ctx, request("one", "org/name"))
		ended <- err
	}()
	w.until("all but the held file is here", func() bool { return w.store.Stats().Blobs == 3 })
	next := small(2)
	commit := w.hub.Recreate("org/name", next)
	config, err := fetcher.NewFilter([]string{"config.json"}, nil)
	must(t, err)
	w.must(request("other", "org/name", func(r *agent.Request) { r.Filter = config }))
	w.until("what has the name now is asked for", func() bool {
		return strings.Contains(fmt.Sprint(asked.take()), "GET /org/name/resolve/"+commit+"/model-00002")
	})
	release()
	must(t, <-ended)
	w.sees(got, next)
}

func TestAFlightThatDoesWithoutTheNodesTokenEndsWithItsLastWaiter(t *testing.T) {
	w := newWorld(t).lend("node")
	w.safe = true
	w.start()
	w.hub.AddRepo("org/name", small(1))
	reading, let := make(chan struct{}, 8), make(chan struct{}, 8)
	w.record(func(_ string, _ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/config.json") {
			return false
		}
		reading <- struct{}{}
		<-r.Context().Done()
		let <- struct{}{}
		return true
	})
	req := request("one", "org/name")
	stop, ended := w.acquireAside(req)
	defer stop()
	<-reading
	if w.flights() != 1 {
		t.Error("nobody may join it")
	}
	stop()
	<-ended
	must(t, w.Release(t.Context(), req.Volume))
	select {
	case <-let:
	case <-time.After(10 * time.Second):
		t.Error("the source is still being read for nobody")
	}
}
