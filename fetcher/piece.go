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
	// maxTries is how often a Piece may fail without realProgress in between.
	maxTries = 5
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
		t, p, ok := r.queue.next()
		if !ok {
			return
		}
		err := r.piece(t, p)
		if err != nil {
			r.fail(err)
		}
		r.queue.finish(t, err == nil)
	}
}

// piece brings one Piece to its Ingest.
func (r *run) piece(t *task, p Piece) error {
	body := &pieceReader{run: r, task: t, piece: p}
	defer body.drop()
	err := t.ingest.WritePiece(p, body)
	if err == nil && body.pos != p.Size {
		err = fmt.Errorf("only %d of %d bytes were taken", body.pos, p.Size)
	}
	if err == nil {
		return nil
	}
	r.tell(-body.pos)
	if body.err != nil {
		return body.err // the Source's, however the sink wrapped it
	}
	return fmt.Errorf("write piece %d of %s of %s: %w", p.Index, t.ingest.File().Path, r.Revision, err)
}

// open returns t's Object; the first caller opens it.
func (r *run) open(ctx context.Context, t *task) (Object, error) {
	select {
	case t.opening <- struct{}{}:
		defer func() { <-t.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if t.object == nil {
		object, err := r.Sources[0].Open(ctx, r.Revision, t.ingest.File(), r.Credential)
		if err != nil {
			return nil, err
		}
		t.object = object
	}
	return t.object, nil
}

// errStalled is the cause with which the watchdog ends a read.
var errStalled = errors.New("stalled")

// pieceReader reads one Piece from the Source. When a read fails or stalls it waits
// and asks again for what is still missing, so whoever reads sees one unbroken
// Piece, or the error that trying again did not mend.
type pieceReader struct {
	run    *run
	task   *task
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
		p.pos += int64(n)
		p.gained += int64(n)
		p.run.tell(int64(n))
		if p.gained >= realProgress {
			p.tries = 0
		}
		if err != nil {
			p.drop()
			p.failed, p.gained = err, 0
		}
		if n > 0 {
			return n, nil
		}
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
	object, err := p.run.open(ctx, p.task)
	if err == nil {
		p.body, err = object.ReadRange(ctx, p.piece.Offset+p.pos, p.piece.Size-p.pos)
	}
	return p.judge(err)
}

// judge says what an error of the Source is: ours, if we ended the read.
func (p *pieceReader) judge(err error) error {
	where := fmt.Sprintf("piece %d of %s of %s from %s", p.piece.Index, p.task.ingest.File().Path, p.run.Revision, p.run.Sources[0].Name())
	switch {
	case err == nil:
		return nil
	case p.run.transfer.Err() != nil:
		return fmt.Errorf("read %s: %w", where, context.Cause(p.run.transfer))
	case context.Cause(p.ctx) == errStalled:
		return &UnreachableError{fmt.Errorf("read %s: stalled with %d bytes in %s", where, p.came, p.run.cfg.Stall)}
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
	if !Transient(err) || p.tries == maxTries || asked > longestRateLimit {
		return err
	}
	wait := firstBackoff << (p.tries - 1)
	wait += asked + time.Duration(rand.Int64N(int64(wait))) - wait/2 // half to one and a half
	p.run.cfg.Log.Debug("a piece is tried again", zap.Stringer("revision", p.run.Revision),
		zap.Stringer("path", p.task.ingest.File().Path), zap.Int("piece", p.piece.Index), zap.Duration("after", wait), zap.Error(err))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-p.run.stopping:
		return err
	}
}
