package agent

import (
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// reason is one for which a Source is passed over, in words and as that of an event, "" for
// none.
type reason struct {
	why          fetcher.Reason
	words, event string
}

// reasons are all of them, the most telling first.
var reasons = []reason{
	{fetcher.PassedMismatch, "does not match its digest", "BallastSourceMismatch"},
	{fetcher.PassedFailed, "cannot be read", "BallastSourceFailed"},
	{fetcher.PassedDenied, "may not be read", "BallastSourceDenied"},
	{fetcher.PassedUnreachable, "not reachable", "BallastSourceUnreachable"},
	{fetcher.PassedStalled, "nothing came any more", "BallastSourceStalled"},
	{fetcher.PassedRateLimited, "asks to wait", "BallastSourceRateLimited"},
	{fetcher.PassedAbsent, "not there", ""}, // as it should be of a Source that has some of the files
}

// tellWaiters puts an event on the pods that wait for f.
func (a *Agent) tellWaiters(f *flight, reason, message string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range f.waiters {
		a.tell(w.pod, reason, message)
	}
}

// passedOver tells that f goes on without a Source for a file: each Source and reason once.
func (a *Agent) passedOver(f *flight, p fetcher.Passed) {
	a.metrics.sourcePassed.WithLabelValues(p.Source, string(p.Why)).Inc()
	next := f.progress.sources.pass(p)
	i := slices.IndexFunc(reasons, func(r reason) bool { return r.why == p.Why })
	if next == "" || i < 0 || reasons[i].event == "" {
		return
	}
	a.log.Warn("source passed over", zap.Stringer("revision", f.key.revision()), zap.String("source", p.Source),
		zap.Stringer("path", p.File.Path), zap.String("reason", string(p.Why)), zap.String("next", next), zap.Error(p.Err))
	a.tellWaiters(f, reasons[i].event, fmt.Sprintf("%s: %s passed over for %s, %s is next: %v",
		f.key.revision(), p.Source, shortened(p.File.Path), next, p.Err))
}

// summarise tells f's waiters where its bytes came from, if any had to come.
func (a *Agent) summarise(f *flight) {
	total := f.selected.Bytes()
	if text := f.progress.sources.summary(total); text != "" {
		a.tellWaiters(f, reasonFetched, fmt.Sprintf("%s: %s: %s", f.key.revision(), bytesText(total), text))
	}
}
