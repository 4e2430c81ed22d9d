package agent_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// disputes counts the differences found with what models said.
func (w *world) disputes() float64 { return w.counters("ballast_authority_disputes_total")["models"] }

// compared waits until what models listed of repo at commit was compared with the Hub.
func (w *world) compared(repo, commit string) {
	w.t.Helper()
	w.until("it is compared", func() bool {
		rec, err := w.store.RepoBy(request("", repo).Repo, "models")
		must(w.t, err)
		return rec.Listed[commit].Compared()
	})
}

// poison is files with other weights.
func poison(files map[string][]byte) map[string][]byte {
	bad := map[string][]byte{}
	for path, data := range files {
		bad[path] = data
	}
	bad["model-00002-of-00002.safetensors"] = noise(99, 70_000)
	return bad
}

// A shared cache of which the refs, the trees and the bytes agree with each other, and are wrong.
func TestAPoisonedCacheNeverWinsOverTheHub(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	events := newPods()
	w.cfg.Pods, w.cfg.ForgetAfter, w.cfg.RefMaxAge = events, 20*time.Millisecond, time.Nanosecond
	w.start()
	files := small(1)
	commit := w.hub.AddRepo("org/name", files)
	bad := poison(files)
	l.holds("org/name", commit, bad)
	pod := func(volume string) agent.Request {
		return request(volume, "org/name", func(r *agent.Request) {
			r.Pod = agent.Pod{Namespace: "team", Name: volume, UID: volume}
		})
	}

	// While the Hub is there its word is not even asked for.
	w.sees(w.must(pod("up")), files)
	if list := l.take(); len(list) != 0 {
		t.Errorf("the cache was asked %q", list)
	}
	// What the Hub said before counts for more, too.
	w.hub.Down(true)
	w.sees(w.must(pod("known")), files)

	// Where nothing is known of the Hub's, it has its way: until the Hub is back.
	other := w.hub.AddRepo("org/other", files)
	l.holds("org/other", other, bad)
	unknown := func(volume string) agent.Request {
		req := pod(volume)
		req.Repo = request("", "org/other").Repo
		return req
	}
	fooled := unknown("fooled")
	m := w.must(fooled)
	w.sees(m, bad)
	contains(t, m.Notice, "could not be reached", "models says main is "+other)
	w.hub.Down(false)
	w.until("it is disputed", func() bool { return w.disputes() == 1 })
	w.sees(m, bad) // who runs keeps what it has
	for range 2 {  // after a restart too
		// It is mounted anew after its node began anew, say.
		if _, err := w.Acquire(t.Context(), fooled); !isDisputed(err) || !isRefused(err) {
			t.Errorf("what is disputed was given again: %v", err)
		} else {
			contains(t, err.Error(), "models", "org/other@"+other[:7], "lists another model-00002-of-00002.safetensors", "new pod")
		}
		w.sees(w.must(unknown("after")), files)

		w.hub.Down(true)
		w.sees(w.must(unknown("stored")), files) // by what the Hub said
		lie := poison(bad)
		lie["config.json"] = []byte("{}")
		l.holds("org/other", other, lie)
		hub := w.origin("org/other")
		must(t, w.store.Identify(hub.Repo, hub.ID+"x")) // nothing is known of it any more
		waiting := w.waits(unknown("offline"), 200*time.Millisecond)
		contains(t, waiting.Progress, "resolve org/other", "withdrawn")
		w.hub.Down(false)
		w.restart()
	}
	told := strings.Join(events.of("fooled", "BallastDisputed"), "\n")
	contains(t, told, "what models said of org/other@")
}

func isDisputed(err error) bool { return errors.As(err, new(*agent.DisputedError)) }

func isRefused(err error) bool { return errors.As(err, new(*agent.RefusedError)) }

// What the Hub lists too is the Hub's as well, without being read again.
func TestWhatTheHubConfirmsIsItsOwn(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	w.cfg.ForgetAfter = 20 * time.Millisecond
	w.start()
	files := small(1)
	commit := w.hub.AddRepo("org/name", files)
	l.holds("org/name", commit, files)
	w.hub.Down(true)
	w.sees(w.must(request("local", "org/name", in("team"))), files)
	w.hub.Down(false)
	w.compared("org/name", commit)
	l.fails(&fetcher.UnreachableError{Err: errors.New("the share is gone")})
	w.hub.ResetRequests()
	w.sees(w.must(request("stranger", "org/name", in("other"))), files)
	if n := w.contentRequests(); n > 0 {
		t.Errorf("%d requests for bytes that are here", n)
	}
	if w.disputes() != 0 {
		t.Error("it is disputed")
	}
	w.sees(w.must(request("again", "org/name", in("team"))), files)
}

// A cache of plain files names all by sha256: that is no difference, if the bytes are the same.
func TestDigestsOfTwoKindsAreComparedByTheBytes(t *testing.T) {
	for name, edit := range map[string]func(map[string][]byte){
		"same":  func(map[string][]byte) {},
		"other": func(files map[string][]byte) { files["config.json"] = []byte(`{"seed": 2}`) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLocal(t, "models")
			l.plain = true
			w := newWorld(t).with(l)
			w.cfg.ForgetAfter = 20 * time.Millisecond
			w.start()
			files := small(1)
			commit := w.hub.AddRepo("org/name", files)
			edit(files)
			l.holds("org/name", commit, files)
			w.hub.Down(true)
			w.sees(w.must(request("local", "org/name", in("team"))), files)
			w.hub.Down(false)
			w.compared("org/name", commit)
			if name == "other" {
				w.until("it is disputed", func() bool { return w.disputes() == 1 })
			} else if w.disputes() != 0 {
				t.Error("it is disputed")
			}
		})
	}
}

func TestACommitThatTheHubDoesNotKnowIsDisputed(t *testing.T) {
	l := newLocal(t, "models")
	w := newWorld(t).with(l)
	w.cfg.ForgetAfter = 20 * time.Millisecond
	w.start()
	files := small(1)
	w.hub.AddRepo("org/name", small(2))
	l.holds("org/name", commitAll('a'), files)
	w.hub.Down(true)
	w.sees(w.must(request("one", "org/name", in("team"))), files)
	w.hub.Down(false)
	w.until("it is disputed", func() bool { return w.disputes() == 1 })
	w.sees(w.must(request("two", "org/name", in("team"))), small(2))
	refused := w.refused(request("three", "org/name", in("team"), at(commitAll('a'))), fetcher.ErrRevisionNotFound)
	contains(t, refused.Error(), "check the revision")
}

// "Missing or private" is no difference; but who may read it there is told of one.
func TestWhatTheHubHidesIsComparedByWhoMayReadIt(t *testing.T) {
	for _, who := range []string{"nobody", "node", "caller"} {
		t.Run(who, func(t *testing.T) {
			l := newLocal(t, "models")
			w := newWorld(t).with(l)
			w.cfg.ForgetAfter, w.cfg.RefMaxAge = 20*time.Millisecond, time.Nanosecond
			if who == "node" {
				w.lend("node")
			}
			w.start()
			files := small(1)
			commit := w.hub.AddRepo("org/name", files)
			w.hub.SetPrivate("org/name", "node", "caller")
			l.holds("org/name", commit, poison(files))
			if who != "node" { // who may find out before it is mounted
				m := w.must(request("one", "org/name", in("team")))
				contains(t, m.Notice, "does not show it", "models says main is")
			} else {
				_, err := w.Acquire(t.Context(), request("one", "org/name", in("team")))
				t.Log(err)
			}
			if who == "caller" {
				w.sees(w.must(request("own", "org/name", in("team"), token("caller"))), files)
			}
			if who == "nobody" {
				time.Sleep(200 * time.Millisecond)
				w.must(request("two", "org/name", in("team")))
				if w.disputes() != 0 {
					t.Error("it is disputed")
				}
				return
			}
			w.until("it is disputed", func() bool { return w.disputes() == 1 })
			refused := w.refused(request("two", "org/name", in("team")), fetcher.ErrNotFound)
			if !isDisputed(refused) {
				t.Errorf("refused with %v", refused)
			}
			contains(t, refused.Error(), "withdrawn", "mend")
		})
	}
}
