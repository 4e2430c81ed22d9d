package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// ledger is what a Flight's Sources gave, what is asked of them now, and for what they
// were passed over. It is safe for concurrent use.
type ledger struct {
	sources []string // in the order in which they are asked

	mu     sync.Mutex                  // guards what follows
	bytes  map[string]int64            // from each Source, less what had to come again
	last   map[string]time.Time        // when each Source gave bytes
	asked  map[fetcher.Digest]string   // the Source of which each file was asked last, until it is closed
	tried  map[fetcher.Digest][]string // the Sources that were passed over for it in this attempt, until then
	passes map[pass]map[fetcher.Digest]fetcher.Path
	told   map[pass]bool // on the pods
}

// pass is a reason why a Source was passed over.
type pass struct {
	source string
	why    fetcher.Reason
}

func newLedger(sources []fetcher.Source) *ledger {
	l := &ledger{
		bytes: map[string]int64{}, last: map[string]time.Time{}, asked: map[fetcher.Digest]string{},
		tried:  map[fetcher.Digest][]string{},
		passes: map[pass]map[fetcher.Digest]fetcher.Path{},
		told:   map[pass]bool{},
	}
	for _, s := range sources {
		l.sources = append(l.sources, s.Name())
	}
	return l
}

// restart begins an attempt: nothing is asked yet.
func (l *ledger) restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.asked)
	clear(l.tried)
}

// give counts bytes from source; negative if they have to come again.
func (l *ledger) give(source string, delta int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes[source] += delta
	if delta > 0 {
		l.last[source] = time.Now()
	}
}

// ask tells that f is asked of source, until it is passed over or f is closed.
func (l *ledger) ask(source string, f fetcher.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[f.Digest] = source
}

func (l *ledger) close(f fetcher.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.asked, f.Digest)
	delete(l.tried, f.Digest)
}

// pass tells that a Source was passed over, and says which may give the file now. That is
// "" if there is none, which what stands in f's way tells then, or if the same was said of
// the same Source before.
func (l *ledger) pass(p fetcher.Passed) (next string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := p.File.Digest
	if l.asked[d] == p.Source {
		delete(l.asked, d)
	}
	l.tried[d] = append(l.tried[d], p.Source)
	if i := slices.IndexFunc(l.sources, func(s string) bool { return !slices.Contains(l.tried[d], s) }); i >= 0 {
		next = l.sources[i]
	}
	key := pass{p.Source, p.Why}
	if l.passes[key] == nil {
		l.passes[key] = map[fetcher.Digest]fetcher.Path{}
	}
	l.passes[key][d] = p.File.Path
	if l.told[key] {
		return ""
	}
	l.told[key] = next != ""
	return next
}

// flowing names the Sources that gave bytes lately, or else those that are waited for.
func (l *ledger) flowing() string {
	if names := l.named(func(source string) bool { return time.Since(l.last[source]) < rateWindow }); names != "" {
		return names
	}
	return l.awaited()
}

// awaited names the Sources that have been asked for files that are not whole, or else the
// first that will be.
func (l *ledger) awaited() string {
	return cmp.Or(l.named(func(source string) bool {
		for _, asked := range l.asked {
			if asked == source {
				return true
			}
		}
		return false
	}), l.sources[0])
}

// named lists the Sources for which is holds, for people: "pvc, modelexpress and hub". is
// is called with l.mu held.
func (l *ledger) named(is func(source string) bool) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, source := range l.sources {
		if is(source) {
			names = append(names, source)
		}
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// given returns the bytes that each Source gave, less what had to come again.
func (l *ledger) given() map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	given := maps.Clone(l.bytes)
	maps.DeleteFunc(given, func(_ string, n int64) bool { return n <= 0 })
	return given
}

// summary says which Source gave how many of total bytes, and why one was passed over:
// "1.4 GB from pvc, 20 MB from hub; pvc passed over for model.safetensors: does not match
// its digest, for 3 files: not there". It is "" if no Source had a part in it.
func (l *ledger) summary(total int64) string {
	given := l.given()
	var parts []string
	for _, source := range l.sources {
		if n := given[source]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s from %s", bytesText(n), source))
			total -= n
		}
	}
	if len(parts) > 0 && total > 0 {
		parts = append(parts, bytesText(total)+" were here")
	}
	text := strings.Join(parts, ", ")
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, source := range l.sources {
		var whys []string
		for _, r := range reasons {
			switch files := l.passes[pass{source, r.why}]; len(files) {
			case 0:
			case 1:
				for _, path := range files {
					whys = append(whys, fmt.Sprintf("for %s: %s", shortened(path), r.words))
				}
			default:
				whys = append(whys, fmt.Sprintf("for %d files: %s", len(files), r.words))
			}
		}
		if len(whys) > 0 {
			text += fmt.Sprintf("; %s passed over %s", source, strings.Join(whys, ", "))
		}
	}
	return strings.TrimPrefix(text, "; ")
}

// shortened keeps the end of a path that is too long for an event.
func shortened(p fetcher.Path) string {
	const limit = 100
	text := p.String()
	if len(text) <= limit {
		return text
	}
	return "…" + strings.ToValidUTF8(text[len(text)-limit:], "")
}
