package fetcher

import (
	"cmp"
	"context"
	"errors"
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

// Engine brings files from a Source to a Sink, Piece by Piece. It keeps no state
// between Fetches and is safe for concurrent use.
type Engine struct{ cfg EngineConfig }

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
	return &Engine{cfg}, nil
}

// Job is what one Fetch brings, from where and to where.
type Job struct {
	Sources    []Source // the chain: asked in this order
	Revision   Revision
	Files      []File
	Credential Secret
	Sink       Sink
	// Progress, unless nil, is called with the bytes that arrived from the Source of
	// that name since the last call, never twice at the same time; it must not block.
	// The count is negative for bytes that have to come again: what arrived of a Piece
	// that the sink did not keep, and a whole file that did not match its Digest,
	// Pieces held before this Fetch included.
	Progress func(source string, delta int64)
	// Passed, unless nil, is called when a Source is passed over for a file, never
	// twice at the same time; it must not block.
	Passed func(p Passed)
	// Failing, unless nil, is called once, by the first error that ends the
	// Fetch, ctx's end included, when it happens: Fetch itself returns that
	// error only after the reads under way have ended, up to EngineConfig.Stall
	// later. It must not block.
	Failing func(err error)
}

// Passed says that a Source was passed over for a file, and why.
type Passed struct {
	Source string
	File   File
	Why    Reason
	Err    error
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
// Fetch returns when all files are committed, or at the first error that trying
// again does not mend, or when ctx ends. What was verified by then has been
// committed, every Ingest has been closed, and no goroutine is left. A
// *MismatchError names the file and the Source. A transient error is returned
// only after a Piece has failed five times without bringing 1 MiB in between, or
// when it is a rate limit of more than 10 s, which is the caller's to wait for.
func (e *Engine) Fetch(ctx context.Context, job Job) error {
	r := &run{
		Job: job, cfg: e.cfg, ctx: ctx,
		queue: newQueue(), stopping: make(chan struct{}),
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

// run is one Fetch.
type run struct {
	Job
	cfg   EngineConfig
	ctx   context.Context // the caller's
	queue *queue

	transfer       context.Context // for reading; outlives the first error by cfg.Stall at most
	cancelTransfer context.CancelCauseFunc
	begin          context.Context // for sink.Begin; ends with the first error
	cancelBegin    context.CancelFunc

	verifying chan struct{} // bounds concurrent hashing to the processors
	verified  chan verified // to the committer

	stopping chan struct{} // closed at the first error: nothing new is begun or tried again

	mu    sync.Mutex // guards first and drain
	first error
	drain *time.Timer

	telling sync.Mutex // guards calls of Progress
}

// verified is a file on its way to the committer, and where the outcome goes.
type verified struct {
	ingest  Ingest
	outcome chan error
}

// fail notes the first error and stops what has not begun. Reads under way get
// cfg.Stall to end by themselves, so that files about to be whole are kept; with
// the caller's own end they end at once.
func (r *run) fail(err error) {
	err, first := r.note(err)
	if !first {
		return
	}
	if r.Failing != nil {
		r.Failing(err)
	}
	close(r.stopping)
	r.cancelBegin()
	r.queue.stop()
}

// note keeps err if it is the first, worded as the caller's own end if that came
// before, and starts the time that reads under way still get.
func (r *run) note(err error) (noted error, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		err = fmt.Errorf("fetch %s from %s: %w", r.Revision, r.Sources[0].Name(), context.Cause(r.ctx))
	}
	if r.first != nil {
		if r.ctx.Err() == nil {
			r.cfg.Log.Debug("another error of a fetch that has failed already", zap.Stringer("revision", r.Revision), zap.Error(err))
		}
		return err, false
	}
	r.first = err
	r.drain = time.AfterFunc(r.cfg.Stall, func() { r.cancelTransfer(err) })
	return err, true
}

// end returns the first error and lets go of its timer.
func (r *run) end() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drain != nil {
		r.drain.Stop()
	}
	return r.first
}

// tell reports progress.
func (r *run) tell(delta int64) {
	if delta != 0 && r.Progress != nil {
		r.telling.Lock()
		defer r.telling.Unlock()
		r.Progress(r.Sources[0].Name(), delta)
	}
}

// eachFile runs every file in a goroutine of its own, cfg.Ahead at a time, and
// waits for them. A Begin that waits for another fetch holds up neither the files
// begun already nor those that come after.
func (r *run) eachFile(files []File) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, r.cfg.Ahead)
	for i, f := range files {
		select {
		case slots <- struct{}{}:
		case <-r.stopping:
			return
		}
		running.Go(func() {
			defer func() { <-slots }()
			if err := r.file(i, f); err != nil {
				r.fail(err)
			}
		})
	}
}

// file brings one file from Begin to Close.
func (r *run) file(order int, f File) (err error) {
	in, err := r.Sink.Begin(r.begin, f)
	if err != nil {
		return fmt.Errorf("begin %s of %s: %w", f.Path, r.Revision, err)
	}
	if in == nil {
		return nil
	}
	defer func() {
		if closing := in.Close(); closing != nil {
			err = errors.Join(err, fmt.Errorf("close %s of %s: %w", f.Path, r.Revision, closing))
		}
	}()
	t := newTask(order, in)
	r.queue.add(t)
	<-t.done // workers end it, whole or not: the queue stops with the first error
	if t.object != nil {
		defer t.object.Close()
	}
	if t.incomplete || r.ctx.Err() != nil {
		return nil // whoever made it so has told why
	}
	if err := r.verify(in); err != nil {
		return err
	}
	outcome := make(chan error, 1)
	r.verified <- verified{in, outcome}
	return <-outcome
}

// verify hashes a whole file.
func (r *run) verify(in Ingest) error {
	r.verifying <- struct{}{}
	err := in.Verify()
	<-r.verifying
	if err == nil {
		return nil
	}
	var mismatch *MismatchError
	if errors.As(err, &mismatch) {
		mismatch.Source = r.Sources[0].Name()
		var dropped int64
		for _, p := range in.Missing() {
			dropped += p.Size
		}
		r.tell(-dropped)
		return fmt.Errorf("%s: %w", r.Revision, err)
	}
	return fmt.Errorf("verify %s of %s: %w", in.File().Path, r.Revision, err)
}

// commit makes durable what is verified, all that waits as one batch. The caller's
// end does not stop it: verified bytes are not to be lost.
func (r *run) commit() {
	for v := range r.verified {
		batch := []verified{v}
		for more := true; more && len(batch) < r.cfg.Ahead; {
			select {
			case v, more = <-r.verified:
				if more {
					batch = append(batch, v)
				}
			default:
				more = false
			}
		}
		ingests := make([]Ingest, len(batch))
		for i := range batch {
			ingests[i] = batch[i].ingest
		}
		err := r.Sink.Commit(context.WithoutCancel(r.ctx), ingests)
		if err != nil {
			err = fmt.Errorf("commit %d files of %s: %w", len(batch), r.Revision, err)
		}
		for _, v := range batch {
			v.outcome <- err
		}
	}
}
