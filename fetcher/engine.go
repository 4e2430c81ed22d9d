package fetcher

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	defaultConnections = 8
	defaultStall       = 30 * time.Second
	defaultAhead       = 128
)

// EngineConfig says how hard an Engine works.
type EngineConfig struct {
	// Connections is how many Pieces one Fetch reads at once. 0: 8.
	Connections int
	// Stall is how long a read may bring nothing, or less than 1 KiB/s on
	// average, before it is given up and tried again. 0: 30 s.
	Stall time.Duration
	// Ahead is how many files one Fetch may have begun and not yet closed, which
	// bounds its open files whatever the Manifest lists. 0: 128.
	Ahead int
	Log   *zap.Logger // nil: none
}

// Engine brings files from a chain of Sources to a Sink, Piece by Piece. Between Fetches
// it keeps only what it remembers of Sources in trouble. It is safe for concurrent use.
type Engine struct {
	cfg    EngineConfig
	memory memory
}

// NewEngine checks cfg and returns an Engine; it starts nothing.
func NewEngine(cfg EngineConfig) (*Engine, error) {
	if cfg.Connections < 0 || cfg.Stall < 0 || cfg.Ahead < 0 {
		return nil, fmt.Errorf("engine: connections %d, stall %s, ahead %d: none may be negative", cfg.Connections, cfg.Stall, cfg.Ahead)
	}
	if cfg.Connections == 0 {
		cfg.Connections = defaultConnections
	}
	if cfg.Stall == 0 {
		cfg.Stall = defaultStall
	}
	if cfg.Ahead == 0 {
		cfg.Ahead = max(defaultAhead, 2*cfg.Connections)
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Engine{cfg: cfg}, nil
}

// Job is what one Fetch brings, from where and to where.
type Job struct {
	Sources    []Source // the chain, asked in this order; no two of one name
	Revision   Revision
	Files      []File
	Credential Secret
	Sink       Sink
	// Progress, unless nil, is called with the bytes that arrived from the Source of
	// that name since the last call, never twice at the same time; it must not block.
	// The count is negative for bytes that have to come again: what arrived of a Piece
	// that the sink did not keep, and a whole file that did not match its Digest; those
	// of its Pieces that were held before this Fetch are no Source's: "".
	Progress func(source string, delta int64)
	// Passed, unless nil, is called when a Source is passed over for a file, never
	// twice at the same time; it must not block.
	Passed func(p Passed)
	// Failing, unless nil, is called once, with the error that Fetch will return, as soon
	// as that is certain: Fetch itself returns it only after the reads under way have
	// ended, up to EngineConfig.Stall later, or, if it is a *SourcesError and some Source
	// is of use still, after all other files were brought. It must not block.
	Failing func(err error)
}

// Passed says that a Source was passed over for a file, and why.
type Passed struct {
	Source string
	File   File
	Why    Reason
	Err    error
	Next   string // the Source to be asked next; "" if none is left
}

// Reason is why a Source was passed over: a word for metrics and events.
type Reason string

const (
	PassedAbsent      Reason = "absent"       // it has not got the file (ErrAbsent, ErrEntryNotFound)
	PassedMismatch    Reason = "mismatch"     // its bytes did not match the Digest
	PassedUnreachable Reason = "unreachable"  // no answer, or a broken one
	PassedStalled     Reason = "stalled"      // it stopped giving bytes
	PassedDenied      Reason = "denied"       // it does not let this credential read
	PassedRateLimited Reason = "rate_limited" // it asks to wait
	PassedFailed      Reason = "failed"       // any other error: what a person must mend
)

// Fetch brings every file of job to its Sink, the largest first, each Digest once.
// Files are verified while others are still on their way, and committed in batches.
//
// For each file the Sources are asked in order, but for those in trouble, which come last.
// One that gave other bytes than the Digest's is not asked for them again for up to 10 min
// where only time keeps another from giving them; otherwise none is left out. All Pieces come from one Source, unless it stalls, breaks off or
// fails in their midst: the next Source brings the rest then. If the bytes are not the
// Digest's, all Pieces are dropped and the next Source brings the file whole.
//
// Fetch returns when all files are committed, or at the first error of the Sink, or when
// ctx ends. A file that no Source gave is a *SourcesError; all other files are brought
// before it is returned, as long as there is a Source that is of use. What was verified
// by then has been committed, every Ingest and Object has been closed, and no goroutine is
// left. A transient error of the last Source is final for a Piece only after five tries
// without 1 MiB in between, or when it is a rate limit of more than 10 s, which is the
// caller's to wait for.
func (e *Engine) Fetch(ctx context.Context, job Job) error {
	r := &run{
		Job: job, cfg: e.cfg, ctx: ctx,
		queue: newQueue(e.cfg.Connections), memory: &e.memory, stopping: make(chan struct{}), givenUp: map[string]error{},
		verifying: make(chan struct{}, runtime.GOMAXPROCS(0)),
		verified:  make(chan verified, e.cfg.Ahead),
	}
	r.transfer, r.cancelTransfer = context.WithCancelCause(ctx)
	r.begin, r.cancelBegin = context.WithCancel(ctx)
	defer r.cancelTransfer(nil)
	defer r.cancelBegin()
	told := make(chan struct{})
	quiet := context.AfterFunc(ctx, func() { defer close(told); r.fail(ctx.Err()) })

	var workers, committer sync.WaitGroup
	for range e.cfg.Connections {
		workers.Go(r.work)
	}
	committer.Go(r.commit)
	r.eachFile(largestFirst(job.Files))
	r.queue.stop()
	workers.Wait()
	close(r.verified)
	committer.Wait()
	if !quiet() {
		<-told
	}
	return r.end()
}

// largestFirst returns files in the order they are to be fetched, each Digest once.
func largestFirst(files []File) []File {
	seen := map[Digest]bool{}
	var order []File
	for _, f := range files {
		if !seen[f.Digest] {
			seen[f.Digest] = true
			order = append(order, f)
		}
	}
	slices.SortStableFunc(order, func(a, b File) int { return cmp.Compare(b.Size, a.Size) })
	return order
}
