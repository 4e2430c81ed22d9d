package agent_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
)

// pods stands in for agent/kube, whose own tests show that it keeps this promise.
type pods struct {
	mu        sync.Mutex
	own       map[string]bool // by uid: has a user namespace of its own
	away      bool            // the API server does not answer
	deleting  map[string]bool
	told      []string
	toldAbout chan struct{}
}

func newPods() *pods {
	return &pods{own: map[string]bool{}, deleting: map[string]bool{}, toldAbout: make(chan struct{}, 100)}
}

func (p *pods) UserNamespace(_ context.Context, pod agent.Pod) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pod.UID == "uid-vanished" {
		return false, agent.ErrPodGone
	}
	if p.away {
		return false, errors.New("connection refused")
	}
	return p.own[pod.UID], nil
}

func (p *pods) IsDeleting(uid string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deleting[uid]
}

func (p *pods) Tell(pod agent.Pod, reason, message string, _ bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, pod.Name+": "+reason+": "+message)
	select {
	case p.toldAbout <- struct{}{}:
	default:
	}
}

func of(pod string) func(*agent.Request) {
	return func(r *agent.Request) { r.Pod = agent.Pod{Namespace: "default", Name: pod, UID: "uid-" + pod} }
}

func TestAPodThatIsBeingDeletedWaitsNoLonger(t *testing.T) {
	w := newWorld(t)
	p := newPods()
	w.cfg.Pods = p
	w.start()
	w.hub.AddRepo("org/name", small(1))
	release := w.hub.Hold("org/name", "config.json")
	defer release()
	ended := make(chan error, 1)
	go func() {
		_, err := w.Acquire(context.Background(), request("gone", "org/name", of("gone")))
		ended <- err
	}()
	stays := request("stays", "org/name", of("stays"))
	for w.waiters() != 2 {
		w.waits(stays, 20*time.Millisecond)
	}
	w.PodDeleting("uid-gone")
	var waiting *agent.WaitingError
	if err := <-ended; !errors.As(err, &waiting) || !waiting.Over {
		t.Fatalf("the call of a pod being deleted ended with %v, want a WaitingError that is Over", err)
	}
	contains(t, waiting.Progress, "being deleted")
	if got := w.waiters(); got != 1 {
		t.Errorf("%v volumes wait, want the other pod's", got)
	}
	p.mu.Lock()
	p.deleting["uid-gone"] = true
	p.mu.Unlock()
	if vanished := w.waits(request("vanished", "org/name", of("vanished")), 20*time.Second); !vanished.Over {
		t.Errorf("the call of a pod that the API server no longer knows waited: %v", vanished)
	}
	if again := w.waits(request("gone", "org/name", of("gone")), 20*time.Second); !again.Over {
		t.Errorf("a later call of that pod waited: %v", again)
	}
	if got := w.waiters(); got != 1 {
		t.Errorf("%v volumes wait after a call of a pod that is being deleted, want the other pod's", got)
	}
	release()
	w.sees(w.must(stays), small(1))
}

func TestAPodWithItsOwnUserNamespaceIsToldToBind(t *testing.T) {
	w := newWorld(t)
	p := newPods()
	p.own["uid-own"] = true
	w.cfg.Pods = p
	w.start()
	w.hub.AddRepo("org/name", small(1))
	for range 2 { // the first call, and one for what is pinned
		if m := w.must(request("own", "org/name", of("own"))); !m.Bind {
			t.Error("a pod with a user namespace of its own was not told to bind")
		}
		if m := w.must(request("host", "org/name", of("host"))); m.Bind {
			t.Error("a pod in the host's user namespace was told to bind")
		}
	}
	p.mu.Lock()
	p.away = true
	p.mu.Unlock()
	waiting := w.waits(request("unknown", "org/name", of("unknown")), 200*time.Millisecond) // never guessed
	contains(t, waiting.Progress, "default/unknown", "user namespace")
}

func TestWhatStandsInTheWayIsToldOnThePod(t *testing.T) {
	w := newWorld(t)
	p := newPods()
	w.cfg.Pods = p
	w.start()
	w.hub.AddRepo("org/name", small(1))
	w.hub.Down(true)
	ended := make(chan error, 1)
	go func() {
		_, err := w.Acquire(t.Context(), request("one", "org/name", of("one")))
		ended <- err
	}()
	<-p.toldAbout
	w.hub.Down(false)
	must(t, <-ended) // within the same call: time mended it
	p.mu.Lock()
	defer p.mu.Unlock()
	contains(t, p.told[0], "one: BallastWaiting: waiting:", "org/name at main")
}

func TestAnOlderAnswerIsToldOnThePod(t *testing.T) {
	w := newWorld(t)
	p := newPods()
	w.cfg.Pods, w.cfg.RefMaxAge = p, time.Nanosecond
	w.start()
	w.hub.AddRepo("org/name", small(1))
	w.must(request("one", "org/name", of("one")))
	w.hub.Down(true)
	p.mu.Lock()
	p.told = nil
	p.mu.Unlock()
	for _, pod := range []string{"one", "two"} { // what it pinned, and another's
		w.must(request(pod, "org/name", of(pod)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	contains(t, p.told[0], "one: BallastStale: hub could not be reached")
	contains(t, p.told[1], "two: BallastStale: hub could not be reached")
}

// What would be mounted is a bind, which runc makes writable for a pod that asks for that.
func TestAWritableVolumeOfAPodWithItsOwnUserNamespaceIsRefusedBeforeAnythingIsAsked(t *testing.T) {
	w := newWorld(t)
	p := newPods()
	p.own["uid-userns"] = true
	w.cfg.Pods = p
	w.start()
	w.hub.AddRepo("org/name", small(1))
	writable := func(r *agent.Request) { r.Writable = true }
	refused := w.refused(request("one", "org/name", of("userns"), writable), agent.ErrWritable)
	contains(t, refused.Error(), "hostUsers: false", "readOnly: true", "persistentVolumeClaim")
	if asked := w.hub.Requests(); len(asked) != 0 {
		t.Errorf("the Hub was asked %+v", asked)
	}
	if m := w.must(request("one", "org/name", of("userns"))); !m.Bind {
		t.Error("the same volume, read-only, is no bind")
	}
	w.must(request("two", "org/name", of("plain"), writable)) // an overlay stands it
}
