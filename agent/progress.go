package agent

import (
	"fmt"
	"sync"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	// rateWindow is how far back a Flight's rate looks.
	rateWindow = 5 * time.Second
	// silence is how long nothing may come before that is said in the rate's place.
	silence = 10 * time.Second
)

// progress is how far a Flight is. It is safe for concurrent use.
type progress struct {
	rev     fetcher.Revision
	sources *ledger

	mu      sync.Mutex // guards what follows
	listed  bool       // total is known
	total   int64      // bytes of the Snapshot
	held    int64      // bytes that needed no fetching, of this attempt
	fetched int64      // bytes fetched, of this attempt and not dropped since
	brought int64      // bytes fetched by all attempts
	begins  int        // files that another Flight brings, or whose kept Pieces are read
	last    time.Time  // when bytes came, or else began to be waited for
	marks   [2]mark    // the rate's window starts at marks[0], the next at marks[1]
	problem error      // what stands in the way now
}

type mark struct {
	at      time.Time
	brought int64
}

func newProgress(rev fetcher.Revision, sources []fetcher.Source) *progress {
	now := mark{at: time.Now()}
	return &progress{rev: rev, sources: newLedger(sources), last: now.at, marks: [2]mark{now, now}}
}

// list tells how many bytes there are in all.
func (p *progress) list(total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listed, p.total = true, total
}

// restart begins an attempt: what is held is counted anew.
func (p *progress) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held, p.fetched = 0, 0
	p.sources.restart()
}

// hold counts bytes that need no fetching.
func (p *progress) hold(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held += n
}

// begin says that a file is looked at before it is asked for, until the func it
// returns is called.
func (p *progress) begin() (done func()) {
	add := func(n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.begins += n
		p.last = time.Now()
	}
	add(1)
	return func() { add(-1) }
}

// fetch counts bytes fetched from source; negative when a Piece is dropped.
func (p *progress) fetch(source string, delta int64) {
	p.sources.give(source, delta)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.fetched += delta
	if delta > 0 {
		p.brought += delta
		p.problem = nil
		p.last = now
	}
	if now.Sub(p.marks[1].at) >= rateWindow {
		p.marks[0], p.marks[1] = p.marks[1], mark{now, p.brought}
	}
}

// stuck records what stands in the way until bytes flow again.
func (p *progress) stuck(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem = err
}

// flows reports whether nothing is known to stand in the way.
func (p *progress) flows() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem == nil
}

// fetchedBytes returns what was fetched so far, whatever became of it.
func (p *progress) fetchedBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.brought
}

// waiting describes the Flight to one who waits for it.
func (p *progress) waiting() *WaitingError {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.listed {
		return &WaitingError{Progress: fmt.Sprintf("%s: choosing files by include and exclude", p.rev)}
	}
	done := min(p.held+max(p.fetched, 0), p.total)
	text := fmt.Sprintf("%s: %d%% of %s", p.rev, percent(done, p.total), bytesText(p.total))
	rate := float64(p.brought-p.marks[0].brought) / max(time.Since(p.marks[0].at).Seconds(), 0.001)
	switch {
	case p.problem != nil:
		text += fmt.Sprintf("; waiting: %v", p.problem)
	case done == p.total:
		text += ", being verified and made durable"
	case time.Since(p.last) >= silence && p.begins > 0:
		text += ", another pod's download brings the same files, or what was kept of them is read"
	case time.Since(p.last) >= silence:
		text += fmt.Sprintf(", nothing has come from %s for %s", p.sources.awaited(), time.Since(p.last).Round(time.Second))
	case rate >= 1:
		left := time.Duration(float64(p.total-done) / rate * float64(time.Second))
		text += fmt.Sprintf(", %s/s, about %s left, from %s", bytesText(int64(rate)), left.Round(time.Second), p.sources.flowing())
	default:
		text += fmt.Sprintf(", from %s", p.sources.flowing())
	}
	return &WaitingError{Progress: text, Done: done, Total: p.total}
}

func percent(done, total int64) int64 {
	if total == 0 {
		return 100
	}
	return int64(float64(done) / float64(total) * 100)
}

// bytesText writes a number of bytes for people, in powers of ten: "1.5 GB".
func bytesText(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1000, 0
	for value >= 999.5 && unit < len(units)-1 {
		value, unit = value/1000, unit+1
	}
	if value < 10 {
		return fmt.Sprintf("%.1f %cB", value, units[unit])
	}
	return fmt.Sprintf("%.0f %cB", value, units[unit])
}
