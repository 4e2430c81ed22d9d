package fetcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// run is one Fetch.
type run struct {
	Job
	cfg    EngineConfig
	ctx    context.Context // the caller's
	queue  *queue
	memory *memory // the Engine's

	transfer       context.Context // for reading; outlives the first error by cfg.Stall at most
	cancelTransfer context.CancelCauseFunc
	begin          context.Context // for Sink.Begin and Source.Open; ends when the Fetch stops
	cancelBegin    context.CancelFunc

	verifying chan struct{} // bounds concurrent hashing to the processors
	verified  chan verified // to the committer

	stopping chan struct{} // closed when nothing new is to be begun or tried again

	mu      sync.Mutex // guards all below
	first   error
	stopped bool
	drain   *time.Timer
	givenUp map[string]error // the Sources that this Fetch asks no more, and why

	telling sync.Mutex // guards calls of Progress and Passed
}

// verified is a file on its way to the committer, and where the outcome goes.
type verified struct {
	ingest  Ingest
	outcome chan error
}

// fail ends the Fetch with err, unless another error came first. Nothing more is begun;
// reads under way get cfg.Stall to end by themselves, so that files about to be whole are
// kept; with the caller's own end they end at once.
func (r *run) fail(err error) {
	r.note(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.stopped = true
	r.drain = time.AfterFunc(r.cfg.Stall, func() { r.cancelTransfer(err) })
	close(r.stopping)
	r.cancelBegin()
	r.queue.stop()
}

// note keeps err as what Fetch returns, if it is the first, worded as the caller's own end
// if that came before.
func (r *run) note(err error) {
	r.mu.Lock()
	if cause := context.Cause(r.ctx); cause != nil {
		err = fmt.Errorf("fetch %s: %w", r.Revision, cause)
	}
	first := r.first == nil
	if first {
		r.first = err
	}
	r.mu.Unlock()
	switch {
	case !first && r.ctx.Err() == nil:
		r.cfg.Log.Debug("another error of a fetch that has failed already", zap.Stringer("revision", r.Revision), zap.Error(err))
	case first && r.Failing != nil:
		r.Failing(err)
	}
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
func (r *run) tell(source string, delta int64) {
	if delta != 0 && r.Progress != nil {
		r.telling.Lock()
		defer r.telling.Unlock()
		r.Progress(source, delta)
	}
}

// tellPassed reports that a Source was passed over.
func (r *run) tellPassed(p Passed) {
	if r.Passed != nil {
		r.telling.Lock()
		defer r.telling.Unlock()
		r.Passed(p)
	}
}

// heed has a Source rest that cannot be reached, or that stalls, whatever it gave before: each
// stall costs its time. One whose answer is about the credential, its limit or the Revision
// is given up: it would answer the same for every other file.
func (r *run) heed(by *turn, err error) {
	var limited *RateLimitedError
	switch {
	case Denied(err) || errors.Is(err, ErrInsecure) ||
		errors.Is(err, ErrRevisionNotFound) && !errors.Is(err, ErrEntryNotFound) || errors.Is(err, ErrNotYet) ||
		errors.As(err, &limited) && limited.RetryAfter > longestRateLimit:
		r.giveUp(by.source.Name(), err)
	case Unreachable(err) && (!by.gave.Load() || errors.Is(err, errStalled)):
		r.memory.rest(by.source.Name())
	}
}

// miss notes that no Source gave a file. Those that could not be reached are given up:
// the caller's next Fetch asks them again. It ends this one when no other Source is left.
func (r *run) miss(e *SourcesError) {
	for _, p := range e.Tried {
		if Transient(p.Err) {
			r.giveUp(p.Source, p.Err)
		}
	}
	r.mu.Lock()
	none := len(r.givenUp) == len(r.Sources)
	r.mu.Unlock()
	if none {
		r.fail(e)
		return
	}
	r.note(e)
}

// giveUp has this Fetch ask a Source no more.
func (r *run) giveUp(source string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.givenUp[source] == nil {
		r.givenUp[source] = err
	}
}

// gaveUp returns why s is asked no more in this Fetch, or nil.
func (r *run) gaveUp(s Source) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.givenUp[s.Name()]
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
	whole, err := r.bring(order, in)
	if !whole {
		return err
	}
	outcome := make(chan error, 1)
	r.verified <- verified{in, outcome}
	return <-outcome
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
