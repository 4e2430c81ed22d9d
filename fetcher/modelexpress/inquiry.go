package modelexpress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

// inquiry asks the server for one Revision, once for all who open files of it, and keeps
// what it learnt for a while.
type inquiry struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int // guarded by Client.mu

	// Written before done is closed.
	sizes map[string]int64 // in bytes, by path
	err   error
	until time.Time // when it is to be asked again
}

// has reports whether the server has f as the Manifest knows it. A snapshot whose download
// is not over is seen by that.
func (q *inquiry) has(f fetcher.File) error {
	size, listed := q.sizes[f.Path.String()]
	switch {
	case !listed:
		return fmt.Errorf("%w: the server does not list it", fetcher.ErrAbsent)
	case size != f.Size:
		return fmt.Errorf("%w: the server's has %d bytes instead of %d", fetcher.ErrAbsent, size, f.Size)
	}
	return nil
}

func (q *inquiry) isDone() bool {
	select {
	case <-q.done:
		return true
	default:
		return false
	}
}

// over reports whether q no longer says how things are.
func (q *inquiry) over(now time.Time) bool { return q.isDone() && now.After(q.until) }

// ask returns what the server says of rev. The asking ends with the last who waits for it.
func (c *Client) ask(ctx context.Context, rev fetcher.Revision) (*inquiry, error) {
	q, err := c.join(rev)
	if err != nil {
		return nil, err
	}
	defer c.leave(rev, q)
	select {
	case <-q.done:
		return q, q.err
	case <-ctx.Done():
		return nil, fmt.Errorf("ask %s for %s: %w", c.server, rev, context.Cause(ctx))
	}
}

func (c *Client) join(rev fetcher.Revision) (*inquiry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for r, q := range c.inquiries {
		if q.over(now) {
			delete(c.inquiries, r)
		}
	}
	q := c.inquiries[rev]
	if q == nil {
		ctx, cancel := context.WithCancel(c.life)
		q = &inquiry{done: make(chan struct{}), cancel: cancel}
		if err := c.start(func() { defer cancel(); c.inquire(ctx, rev, q) }); err != nil {
			cancel()
			return nil, err
		}
		c.inquiries[rev] = q
	}
	q.waiting++
	return q, nil
}

// leave is called once for each join.
func (c *Client) leave(rev fetcher.Revision, q *inquiry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q.waiting--; q.waiting > 0 {
		return
	}
	if !q.isDone() {
		q.cancel()
		c.forget(rev, q) // nobody joins what was given up
	}
}

// forget has rev asked for again. The caller holds c.mu.
func (c *Client) forget(rev fetcher.Revision, q *inquiry) {
	if c.inquiries[rev] == q {
		delete(c.inquiries, rev)
	}
}

// inquire fills q in. Only what the server is sure of is kept.
func (c *Client) inquire(ctx context.Context, rev fetcher.Revision, q *inquiry) {
	q.sizes, q.err = c.holdings(ctx, rev)
	q.until = time.Now().Add(c.limits.keep)
	if q.err != nil {
		c.log.Debug("Model Express has not got a revision", zap.Stringer("revision", rev), zap.Error(q.err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil || fetcher.Transient(q.err) {
		c.forget(rev, q)
	}
	close(q.done)
}

// doubt takes note of what became of a stream: that the server has another commit holds for
// every file of rev, anything else is to be asked again.
func (c *Client) doubt(rev fetcher.Revision, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q := c.inquiries[rev]; q != nil && q.isDone() {
		delete(c.inquiries, rev)
	}
	var other *otherCommitError
	if c.inquiries[rev] == nil && errors.As(err, &other) {
		done := make(chan struct{})
		close(done)
		c.inquiries[rev] = &inquiry{done: done, cancel: func() {}, err: err, until: time.Now().Add(c.limits.keep)}
	}
}

// verdict returns why the server has nothing of rev, if that is known.
func (c *Client) verdict(rev fetcher.Revision) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q := c.inquiries[rev]; q != nil && q.isDone() && !q.over(time.Now()) {
		return q.err
	}
	return nil
}

// holdings has the server download rev and returns the size of each file that it lists.
func (c *Client) holdings(ctx context.Context, rev fetcher.Revision) (map[string]int64, error) {
	ctx, cancel := within(ctx, c.cfg.Wait, unreachable("%w after %s", errOverdue, c.cfg.Wait))
	defer cancel()
	for attempt := 0; ; attempt++ {
		ensured := c.ensure(ctx, rev)
		c.note(rev, ensured)
		if ensured != nil && !errors.Is(ensured, errNotFound) {
			return nil, ensured
		}
		// A server that cannot reach the Hub does not find a commit that it has; its list
		// is of its disk.
		sizes, err := c.list(ctx, rev)
		switch {
		case err == nil:
			return sizes, nil
		case ensured != nil && errors.Is(err, errNotFound):
			return nil, ensured
		case !errors.Is(err, errNotFound) || attempt > 0:
			return nil, err
		}
		// Another server behind this address may have downloaded it. Asked again, this
		// one does too.
	}
}

// within is ctx that ends after d because of late. It has no deadline: gRPC would tell that to
// the server, whose own word for it may come first.
func within(ctx context.Context, d time.Duration, late error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(d, func() { cancel(late) })
	return ctx, func() { timer.Stop(); cancel(nil) }
}

// errOverdue says that a download takes longer than Config.Wait. Some servers are stuck for
// good once whoever downloaded is gone.
var errOverdue = fmt.Errorf("%w: it still downloads", fetcher.ErrNotYet)

// note takes note of how asking for rev's download ended. One that is overdue is not waited
// for again until Config.Wait after anybody last asked: it is only seen whether it is over.
func (c *Client) note(rev fetcher.Revision, ensured error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(c.overdue, func(_ fetcher.Revision, until time.Time) bool { return now.After(until) })
	delete(c.overdue, rev)
	if errors.Is(ensured, errOverdue) {
		c.overdue[rev] = now.Add(c.cfg.Wait)
	}
}

func (c *Client) isOverdue(rev fetcher.Revision) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.overdue[rev])
}

// maxUpdates is more than a server sends: it has four to tell.
const maxUpdates = 1000

// ensure returns once the server says that it has the model, whole or not.
func (c *Client) ensure(ctx context.Context, rev fetcher.Revision) error {
	what := fmt.Sprintf("have %s download %s", c.server, rev)
	return c.withToken(func() error {
		asking, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		silent := time.AfterFunc(c.limits.answer, func() { cancel(unreachable("no answer in %s", c.limits.answer)) })
		defer silent.Stop()
		commit := rev.Commit.String()
		updates, err := c.rpc.EnsureModelDownloaded(asking, &modelexpresspb.ModelDownloadRequest{
			ModelName: rev.Repo.Name(), Provider: modelexpresspb.ModelProvider_HUGGING_FACE, Revision: &commit,
		})
		for range maxUpdates {
			var u *modelexpresspb.ModelStatusUpdate
			if err == nil {
				u, err = updates.Recv()
			}
			silent.Stop()
			switch {
			case err == io.EOF:
				return unreachable("%s: it ended without saying that it is there", what)
			case err != nil:
				return callError(asking, what, err)
			case u.Status == modelexpresspb.ModelStatus_ERROR:
				return unreachable("%s: %w: its download failed: %s", what, fetcher.ErrNotYet, clean(u.GetMessage()))
			case u.Status != modelexpresspb.ModelStatus_DOWNLOADED && c.isOverdue(rev):
				return unreachable("%s: %w after %s", what, errOverdue, c.cfg.Wait)
			case u.Status != modelexpresspb.ModelStatus_DOWNLOADED:
			case u.ResolvedRevision != nil && u.GetResolvedRevision() != commit:
				return fmt.Errorf("%s: %w", what, &otherCommitError{u.GetResolvedRevision(), rev.Commit})
			default:
				return nil
			}
		}
		return unreachable("%s: more than %d updates", what, maxUpdates)
	})
}

// list returns the sizes of all files that a stream of the server's has, whatever their
// paths: files half downloaded may be among them.
func (c *Client) list(ctx context.Context, rev fetcher.Revision) (map[string]int64, error) {
	what := fmt.Sprintf("list %s at %s", rev, c.server)
	var sizes map[string]int64
	err := c.withToken(func() error {
		asking, cancel := within(ctx, c.limits.answer, unreachable("no answer in %s", c.limits.answer))
		defer cancel()
		commit := rev.Commit.String()
		answer, err := c.rpc.ListModelFiles(asking, &modelexpresspb.ModelFilesRequest{
			ModelName: rev.Repo.Name(), Provider: modelexpresspb.ModelProvider_HUGGING_FACE, Revision: &commit,
		})
		if err != nil {
			return callError(asking, what, err)
		}
		sizes = map[string]int64{}
		for _, f := range answer.Files {
			if f.Size <= math.MaxInt64 {
				sizes[f.RelativePath] = int64(f.Size)
			}
		}
		return nil
	})
	return sizes, err
}

// withToken runs call, once more if the token was not taken: its file may hold another by
// now.
func (c *Client) withToken(call func() error) error {
	err := call()
	if errors.Is(err, errToken) && c.token != nil {
		c.token.forget()
		err = call()
	}
	return err
}
