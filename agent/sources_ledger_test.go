package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestProgressNamesTheSourcesThatGiveAndThoseThatAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProgress(fetcher.Revision{}, []fetcher.Source{NewShelf("pvc", nil), NewShelf("modelexpress", nil), NewShelf("hub", nil)})
		p.list(1000)
		p.restart()
		says := func(want string) {
			t.Helper()
			if got := p.waiting().Progress; !strings.HasSuffix(got, want) {
				t.Errorf("progress %q, want it to end in %q", got, want)
			}
		}
		one, two := storetest.File(t, "one", []byte("1"), true), storetest.File(t, "two", []byte("2"), true)
		says(", from pvc") // will be asked first
		p.sources.ask("pvc", one)
		p.sources.pass(fetcher.Passed{Source: "pvc", File: one, Why: fetcher.PassedAbsent})
		p.sources.ask("modelexpress", one)
		says(", from modelexpress")
		p.sources.ask("pvc", two)
		p.fetch("pvc", 100)
		says("from pvc")
		p.fetch("hub", 100)
		says("from pvc and hub")
		p.fetch("modelexpress", 100)
		says("from pvc, modelexpress and hub")
		time.Sleep(rateWindow - time.Second)
		p.fetch("hub", 1)
		time.Sleep(2 * time.Second)
		says("from hub")
		p.sources.close(two)
		time.Sleep(silence)
		says(", nothing has come from modelexpress for 12s")
		p.restart()
		says(", nothing has come from pvc for 12s")
	})
}

func TestAFileThatIsClosedIsWaitedForNoLonger(t *testing.T) {
	a, stop := runOn(t, storetest.Open(t), stuck{})
	defer stop()
	repo, _ := fetcher.ParseRepo("org/name")
	p := newProgress(fetcher.Revision{Repo: repo}, []fetcher.Source{NewShelf("pvc", nil), NewShelf("hub", nil)})
	f := storetest.File(t, "one", []byte("1"), true)
	in, err := (&sink{agent: a, origin: store.Origin{Repo: repo}, progress: p}).Begin(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	p.sources.pass(fetcher.Passed{Source: "pvc", File: f, Why: fetcher.PassedAbsent})
	p.sources.ask("hub", f)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if len(p.sources.asked) != 0 || len(p.sources.tried) != 0 {
		t.Errorf("kept of it: %v, %v", p.sources.asked, p.sources.tried)
	}
}

func TestASummarySaysWhoGaveWhatAndWhyOneDidNot(t *testing.T) {
	l := newLedger([]fetcher.Source{NewShelf("pvc", nil), NewShelf("modelexpress", nil), NewShelf("hub", nil)})
	if got := l.summary(1_500_000_000); got != "" {
		t.Errorf("nothing came, and it is %q", got)
	}
	file := func(name string) fetcher.File { return storetest.File(t, name, []byte(name), true) }
	pass := func(source, name string, why fetcher.Reason) string {
		return l.pass(fetcher.Passed{Source: source, File: file(name), Why: why})
	}
	l.give("pvc", 1_450_000_000)
	if got := pass("pvc", "model.safetensors", fetcher.PassedMismatch); got != "modelexpress" {
		t.Errorf("next is %q", got)
	}
	l.give("pvc", -50_000_000)
	if got := pass("modelexpress", "model.safetensors", fetcher.PassedFailed); got != "hub" {
		t.Errorf("next is %q", got)
	}
	if got := pass("hub", "model.safetensors", fetcher.PassedUnreachable); got != "" {
		t.Errorf("of no Source that is left, next is %q", got)
	}
	if got := pass("pvc", "tokenizer.json", fetcher.PassedMismatch); got != "" {
		t.Errorf("the same of the same Source is told again, and next is %q", got)
	}
	l.restart() // the file is asked for again
	if got := pass("hub", "model.safetensors", fetcher.PassedUnreachable); got != "pvc" {
		t.Errorf("next is %q", got)
	}
	for i := range 3 {
		pass("pvc", fmt.Sprint(i), fetcher.PassedAbsent)
		pass("pvc", fmt.Sprint(i), fetcher.PassedAbsent) // another attempt's
	}
	l.give("hub", 20_000_000)
	want := "1.4 GB from pvc, 20 MB from hub, 80 MB were here; " +
		"pvc passed over for 2 files: does not match its digest, for 3 files: not there; " +
		"modelexpress passed over for model.safetensors: cannot be read; hub passed over for model.safetensors: not reachable"
	if got := l.summary(1_500_000_000); got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	long := strings.Repeat("directory/", 60) + "model.safetensors"
	pass("modelexpress", long, fetcher.PassedStalled)
	if got := l.summary(0); len(got) > 500 || !strings.Contains(got, "/model.safetensors: nothing came any more") {
		t.Errorf("summary %q", got)
	}
}

// What the Hub says of a credential about what another Authority lists is no word on what
// the Hub itself has.
func TestADenialAboutALocalOriginWithdrawsNoProof(t *testing.T) {
	a, stop := runOn(t, storetest.Open(t), stuck{})
	defer stop()
	repo, _ := fetcher.ParseRepo("org/name")
	token, hubs := fetcher.NewSecret("token"), store.Origin{Repo: repo}
	defer a.access.ask(token, repo)()
	if err := a.access.grant(token, hubs, time.Now()); err != nil {
		t.Fatal(err)
	}
	local := a.newFlight(flightKey{origin: store.Origin{Repo: repo, Authority: "models"}}, nil)
	if err := a.turnAway(local, asker{cred: token}, fetcher.ErrNotFound); err != nil || !a.access.proved(token, hubs, false) {
		t.Errorf("the proof was withdrawn (%v)", err)
	}
	if err := a.turnAway(a.newFlight(flightKey{origin: hubs}, nil), asker{cred: token}, fetcher.ErrNotFound); err != nil || a.access.proved(token, hubs, false) {
		t.Errorf("the proof of what the Hub denies counts on (%v)", err)
	}
}

// Of several Sources' troubles the one that may be over first says when to ask again.
func TestTheFirstTroubleToBeOverSaysWhenToAskAgain(t *testing.T) {
	away := &fetcher.UnreachableError{Err: errors.New("503")}
	limited := &fetcher.RateLimitedError{RetryAfter: time.Hour, Err: errors.New("429")}
	tried := func(errs ...error) error {
		all := &fetcher.SourcesError{}
		for _, err := range errs {
			all.Tried = append(all.Tried, fetcher.Passed{Err: err})
		}
		return fmt.Errorf("fetch: %w", all)
	}
	for name, tc := range map[string]struct {
		err  error
		want time.Duration
	}{
		"one":                     {limited, time.Hour},
		"one Source":              {tried(limited), time.Hour},
		"one that is away":        {tried(limited, away), time.Second},
		"one that has not got it": {tried(limited, fetcher.ErrAbsent), time.Hour},
		"none that may be over":   {tried(fetcher.ErrAbsent), time.Second},
	} {
		if got := delay(time.Second, tc.err); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
