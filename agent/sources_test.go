package agent_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

const (
	big   = "model-00001-of-00002.safetensors"
	other = "model-00002-of-00002.safetensors"
)

// errAway is what a Source that is not there has every file meet.
var errAway = &fetcher.UnreachableError{Err: errors.New("connection refused")}

// without returns files but for those at paths.
func without(files map[string][]byte, paths ...string) map[string][]byte {
	rest := maps.Clone(files)
	for _, p := range paths {
		delete(rest, p)
	}
	return rest
}

// spoilt returns files with the last byte of those at paths changed.
func spoilt(files map[string][]byte, paths ...string) map[string][]byte {
	bad := maps.Clone(files)
	for _, p := range paths {
		data := slices.Clone(bad[p])
		data[len(data)-1] ^= 1
		bad[p] = data
	}
	return bad
}

// of returns what a pod was told for a reason.
func (p *pods) of(pod, reason string) (messages []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.told {
		if message, ok := strings.CutPrefix(line, pod+": "+reason+": "); ok {
			messages = append(messages, message)
		}
	}
	return messages
}

// listen has the agent tell pods.
func (w *world) listen() *pods {
	p := newPods()
	w.cfg.Pods = p
	return p
}

// soon returns how a call ended, and fails the test if it does not.
func soon(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(15 * time.Second):
		t.Fatal("the call is still held")
		return nil
	}
}

// contentAway has the Hub answer all but what asks for content.
func contentAway(_ string, rw http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/resolve/") {
		return false
	}
	rw.WriteHeader(http.StatusServiceUnavailable)
	return true
}

func TestTheFirstSourceThatHasAFileGivesItAndThatIsTold(t *testing.T) {
	files := model(1)
	pvc, mx := agent.NewShelf("pvc", without(files, other)), agent.NewShelf("modelexpress", files)
	pvc2 := agent.NewShelf("idle", nil)
	w := newWorld(t).before(pvc, mx, pvc2)
	p := w.listen()
	w.start()
	if got := w.counters("ballast_fetched_bytes_total"); !maps.Equal(got, map[string]float64{"pvc": 0, "modelexpress": 0, "idle": 0, "hub": 0}) {
		t.Errorf("before anything was fetched: %v", got)
	}
	w.hub.AddRepo("org/name", files)
	req := request("one", "org/name", of("one"))
	w.sees(w.must(req), files)
	if n := w.contentRequests(); n != 0 {
		t.Errorf("the Hub was asked for content %d times", n)
	}
	if got := mx.Asked(); !slices.Equal(got, []string{other}) {
		t.Errorf("the second Source was asked for %q", got)
	}
	here := float64(size(without(files, other)))
	if got, want := w.counters("ballast_fetched_bytes_total"), (map[string]float64{"pvc": here, "modelexpress": 70_000, "idle": 0, "hub": 0}); !maps.Equal(got, want) {
		t.Errorf("bytes fetched: %v, want %v", got, want)
	}
	passed := w.counters("ballast_source_passed_total")
	if passed["absent pvc"] != 1 || len(passed) != 4*7 {
		t.Errorf("passed over: %v", passed)
	}
	want := "17 MB: 17 MB from pvc, 70 kB from modelexpress; pvc passed over for " + other + ": not there"
	if got := p.of("one", "BallastFetched"); len(got) != 1 || !strings.HasSuffix(got[0], ": "+want) {
		t.Errorf("told %q, want %q", got, want)
	}
	w.must(req)
	w.must(request("two", "org/name", of("two")))
	if got := append(p.of("one", "BallastFetched")[1:], p.of("two", "BallastFetched")...); len(got) != 0 {
		t.Errorf("a hit was told %q", got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.told) != 1 {
		t.Errorf("told %q: that a file is not there is for the summary alone", p.told)
	}
}

func TestACorruptFileComesFromTheNextSourceAndThatIsTold(t *testing.T) {
	files := small(1)
	pvc := agent.NewShelf("pvc", spoilt(files, other, "config.json"))
	w := newWorld(t).before(pvc)
	p := w.listen()
	w.start()
	w.hub.AddRepo("org/name", files)
	w.sees(w.must(request("one", "org/name", of("one"))), files)
	if got := w.counters("ballast_source_passed_total"); got["mismatch pvc"] != 2 {
		t.Errorf("passed over: %v", got)
	}
	told := p.of("one", "BallastSourceMismatch")
	if len(told) != 1 { // a Flight, a Source, a reason
		t.Fatalf("told %q", told)
	}
	contains(t, told[0], "org/name@", "pvc passed over for ", "hub is next", "from pvc does not match its digest")
	summary := p.of("one", "BallastFetched")
	if len(summary) != 1 {
		t.Fatalf("told %q", summary)
	}
	contains(t, summary[0], "3.0 kB from pvc, 70 kB from hub; pvc passed over for 2 files: does not match its digest")
}

func TestWhileNoSourceIsThereACallIsHeldAndOneThatComesBackIsFound(t *testing.T) {
	for _, back := range []string{"pvc", "hub"} {
		t.Run(back, func(t *testing.T) {
			files := small(1)
			pvc := agent.NewShelf("pvc", files)
			pvc.Trouble(errAway)
			w := newWorld(t).before(pvc)
			w.cfg.RetryEvery = 0 // as it is in a cluster
			p := w.listen()
			w.start()
			w.hub.AddRepo("org/name", files)
			w.record(contentAway)
			stop, ended := w.acquireAside(request("one", "org/name", of("one")))
			defer stop()
			w.until("it is told", func() bool { return len(p.of("one", "BallastWaiting")) > 0 })
			contains(t, p.of("one", "BallastWaiting")[0], "waiting: no source gave", "pvc: ", "connection refused", "hub: ", "503")
			began := time.Now()
			if back == "pvc" {
				pvc.Trouble(nil)
			} else {
				w.record(nil)
			}
			must(t, soon(t, ended))
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it came %s later", took)
			}
		})
	}
}

// What a person must mend at a Source is told in its own words, whole.
func TestASourceThatCannotBeReadTellsThePodWhatToDo(t *testing.T) {
	text := "open blobs/0123456789abcdef: permission denied: Ballast reads as uid 2000000000; the files are of group 4711 and " +
		"readable for it: set supplementalGroups: [4711] in the agent's pod, or make them readable for everybody"
	files := small(1)
	pvc := agent.NewShelf("pvc", files)
	pvc.Trouble(errors.New(text))
	w := newWorld(t).before(pvc)
	p := w.listen()
	w.start()
	w.hub.AddRepo("org/name", files)
	w.must(request("one", "org/name", of("one")))
	told := p.of("one", "BallastSourceFailed")
	if len(told) != 1 || len(told[0]) > 1024 {
		t.Fatalf("told %q", told)
	}
	contains(t, told[0], text, "hub is next")
	contains(t, fmt.Sprint(p.of("one", "BallastFetched")), "pvc passed over for 3 files: cannot be read")
}
