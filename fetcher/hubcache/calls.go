package hubcache

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	// maxCalls bounds the calls of the file system under way, those that nobody waits
	// for any more included: each that hangs keeps a thread.
	maxCalls = 64
	// closeWait is how long closing a file is waited for.
	closeWait = time.Second
)

// calls bounds what may hang.
type calls struct {
	patience time.Duration
	slots    chan struct{} // holds a token for each call under way
	left     atomic.Int64  // of them, those that nobody waits for any more
}

func newCalls(patience time.Duration) *calls {
	return &calls{patience: patience, slots: make(chan struct{}, maxCalls)}
}

// do makes a call that may hang, and waits for it until ctx ends or patience does; what
// says what it does, for errors. The call outlives the wait: it must own what it writes
// to. If it succeeds when nobody waits any more, late, unless nil, gets what it gave.
func do[T any](ctx context.Context, c *calls, what string, call func() (T, error), late func(T)) (T, error) {
	var none T
	if n := c.left.Load(); n >= maxCalls {
		return none, &fetcher.UnreachableError{Err: fmt.Errorf("%s: the file system does not answer: %d calls of it hang", what, n)}
	}
	patience := time.NewTimer(c.patience)
	defer patience.Stop()
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case <-patience.C:
		return none, &fetcher.UnreachableError{Err: fmt.Errorf("%s: the file system is too busy: no turn in %s", what, c.patience)}
	}
	type answer struct {
		value T
		err   error
	}
	answers, gone := make(chan answer), make(chan struct{})
	go func() {
		defer func() { <-c.slots }()
		value, err := call()
		select {
		case answers <- answer{value, err}:
		case <-gone:
			if err == nil && late != nil {
				late(value)
			}
			c.left.Add(-1)
		}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		c.left.Add(1)
		close(gone)
		return none, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case <-patience.C:
		c.left.Add(1)
		close(gone)
		return none, &fetcher.UnreachableError{Err: fmt.Errorf("%s: the file system did not answer in %s", what, c.patience)}
	}
}

// closeFile closes f and waits for it, but not long: that may hang too. There are no
// more of these than files that could be opened.
func closeFile(f io.Closer) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Close() // nothing was written
	}()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// closeLate closes a file that was opened when nobody waited for it any more.
func closeLate[F io.Closer](f F) { _ = f.Close() }
