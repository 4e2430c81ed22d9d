package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
)

const (
	// How often a Piece may fail without realProgress in between at the last Source that
	// can be asked, and at one before it. There a stall is enough, having cost its time.
	maxTries, earlierTries = 5, 2
	// The n-th of them is followed by about firstBackoff·2^(n-1).
	firstBackoff = 250 * time.Millisecond
	// realProgress is how many bytes must have come since the last failure for it
	// to be forgotten. Less is no sign that asking again will bring the rest.
	realProgress = 1 << 20
	// minRate is what a read must bring in every EngineConfig.Stall of waiting for
	// the Source, in bytes a second; less is a stall.
	minRate = 1 << 10
	// A rate limit that asks for more than this is returned: the caller can tell
	// those who wait, and ask again later.
	longestRateLimit = 10 * time.Second
)

// work takes Pieces until the queue stops.
func (r *run) work() {
	for {
		t, by, p, ok := r.queue.next()
		if !ok {
			return
		}
		r.queue.finish(t, by, p, r.piece(t, by, p))
	}
}

// piece brings one Piece to its Ingest. The error is the Source's; one of the Sink's, or
// ours, ends the Fetch.
func (r *run) piece(t *task, by *turn, p Piece) error {
	if err := r.unwanted(by); err != nil {
		return err
	}
	body := &pieceReader{run: r, turn: by, piece: p, file: t.ingest.File()}
	defer body.drop()
	err := t.ingest.WritePiece(p, body)
	if err == nil && body.pos != p.Size {
		err = fmt.Errorf("only %d of %d bytes were taken", body.pos, p.Size)
	}
	if err == nil {
		r.memory.wake(by.source.Name()) // not before: one that gives a few bytes may stall yet
		return nil
	}
	r.tell(by.source.Name(), -body.pos)
	switch {
	case body.err == nil:
		r.fail(fmt.Errorf("write piece %d of %s of %s: %w", p.Index, body.file.Path, r.Revision, err))
	case r.transfer.Err() != nil:
		r.fail(body.err)
	default:
		r.heed(by, body.err) // before its worker takes another Piece
		return body.err      // however the sink wrapped it
	}
	return errStopped
}

// errRests: a Source was not asked, for it rests, and there are others.
var errRests = errors.New("rests")

// unwanted says why a Source is not to be asked, if it has given nothing of the file yet.
func (r *run) unwanted(by *turn) error {
	switch {
	case by.gave.Load():
		return nil
	case !by.insist && r.memory.resting(by.source.Name()) && r.isSpare(by):
		return errRests
	}
	return r.gaveUp(by.source)
}

// errStalled is the cause with which the watchdog ends a read.
var errStalled = errors.New("stalled")

// pieceReader reads one Piece from the Source. When a read fails or stalls it waits
// and asks again for what is still missing, so whoever reads sees one unbroken
// Piece, or the error that trying again did not mend.
type pieceReader struct {
	run    *run
	turn   *turn
	file   File
	piece  Piece
	pos    int64 // bytes read so far
	gained int64 // of them, since the last failure
	tries  int   // failures since realProgress
	failed error // of the last request; to be waited out before the next one
	err    error // the error that ended the Piece

	// One request, while body is not nil or being asked for.
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *time.Timer // runs only while we wait for the Source, not while the sink writes
	body   io.ReadCloser
	left   time.Duration // what the watchdog still waits in this window
	came   int64         // bytes in this window
}

func (p *pieceReader) Read(b []byte) (int, error) {
	switch {
	case p.pos == p.piece.Size:
		return 0, io.EOF
	case p.err != nil:
		return 0, p.err
	case len(b) == 0:
		return 0, nil
	}
	b = b[:min(int64(len(b)), p.piece.Size-p.pos)]
	for {
		if p.failed != nil {
			if p.err = p.again(p.failed); p.err != nil {
				return 0, p.err
			}
			p.failed = nil
		}
		n, err := p.try(b)
		p.advance(int64(n))
		if err != nil {
			p.drop()
			p.failed, p.gained = err, 0
		}
		if n > 0 {
			return n, nil
		}
	}
}

// advance counts n bytes that came.
func (p *pieceReader) advance(n int64) {
	p.pos += n
	if p.gained += n; p.gained >= realProgress {
		p.tries = 0
	}
	p.run.tell(p.turn.source.Name(), n)
	if n > 0 {
		p.turn.gave.Store(true)
	}
}

// try reads once, asking the Source first if need be.
func (p *pieceReader) try(b []byte) (n int, err error) {
	if p.body == nil {
		if err := p.ask(); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	p.watch.Reset(p.left)
	defer p.watch.Stop()
	for range 100 {
		if n, err = p.body.Read(b); n > 0 || err != nil {
			p.left -= time.Since(began)
			if p.came += int64(n); float64(p.came) >= minRate*p.run.cfg.Stall.Seconds() {
				p.left, p.came = p.run.cfg.Stall, 0
			}
			return n, p.judge(err)
		}
	}
	return 0, p.judge(io.ErrNoProgress)
}

// ask requests what is still missing; the answer's first bytes may take as long as
// a stall.
func (p *pieceReader) ask() error {
	ctx, cancel := context.WithCancelCause(p.run.transfer)
	p.ctx, p.cancel = ctx, cancel
	p.watch = time.AfterFunc(p.run.cfg.Stall, func() { cancel(errStalled) })
	defer p.watch.Stop()
	p.left, p.came = p.run.cfg.Stall, 0
	var err error
	p.body, err = p.turn.object.ReadRange(ctx, p.piece.Offset+p.pos, p.piece.Size-p.pos)
	return p.judge(err)
}

// judge says what an error of the Source is: ours, if we ended the read.
func (p *pieceReader) judge(err error) error {
	where := fmt.Sprintf("piece %d of %s of %s from %s", p.piece.Index, p.file.Path, p.run.Revision, p.turn.source.Name())
	switch {
	case err == nil:
		return nil
	case p.run.transfer.Err() != nil:
		return fmt.Errorf("read %s: %w", where, context.Cause(p.run.transfer))
	case context.Cause(p.ctx) == errStalled:
		return &UnreachableError{fmt.Errorf("read %s: %w with %d bytes in %s", where, errStalled, p.came, p.run.cfg.Stall)}
	case err == io.EOF || err == io.ErrUnexpectedEOF || err == io.ErrNoProgress:
		return &UnreachableError{fmt.Errorf("read %s: it ends early (%w)", where, err)}
	}
	return err
}

// drop ends the request under way, if there is one.
func (p *pieceReader) drop() {
	if p.body != nil {
		p.body.Close()
	}
	if p.ctx != nil {
		p.watch.Stop()
		p.cancel(nil)
	}
	p.body, p.ctx = nil, nil
}

// again waits until the Piece may be tried again, and returns nil; or err, if it
// may not.
func (p *pieceReader) again(err error) error {
	p.tries++
	var asked time.Duration
	var limited *RateLimitedError
	if errors.As(err, &limited) {
		asked = limited.RetryAfter
	}
	if limited != nil || errors.Is(err, ErrBusy) {
		p.run.queue.narrow(p.turn.lane)
	}
	if !Transient(err) || p.tries >= p.run.triesOf(p.turn, err) || asked > longestRateLimit {
		return err
	}
	wait := firstBackoff << (p.tries - 1)
	wait += asked + time.Duration(rand.Int64N(int64(wait))) - wait/2 // half to one and a half
	p.run.cfg.Log.Debug("a piece is tried again", zap.Stringer("revision", p.run.Revision),
		zap.Stringer("path", p.file.Path), zap.Int("piece", p.piece.Index), zap.Duration("after", wait), zap.Error(err))
	p.run.queue.leave(p.turn.lane)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	stopped := false
	select {
	case <-timer.C:
	case <-p.run.stopping:
		stopped = true
	}
	if !p.run.queue.enter(p.turn.lane) || stopped {
		return err
	}
	return nil
}

// triesOf is how often a Piece may fail, the last time by err.
func (r *run) triesOf(by *turn, err error) int {
	switch {
	case r.isLast(by):
		return maxTries
	case errors.Is(err, errStalled):
		return 1
	}
	return earlierTries
}
