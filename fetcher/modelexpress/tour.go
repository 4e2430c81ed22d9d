package modelexpress

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

// tour streams all files of a Revision, again and again while somebody waits for one: what
// releases 0.2.2 to 0.3.0 can do. There is one at a time for each Revision. It gives each
// file to whoever waits for it and passes over the others; a file that is being read holds
// it up.
type tour struct {
	client *Client
	rev    fetcher.Revision
	ctx    context.Context
	cancel context.CancelFunc

	// Guarded by Client.mu.
	waiting []*traveller
	riding  bool // a file is being given
	passes  int  // begun
}

// traveller waits for a file to come by.
type traveller struct {
	file   fetcher.File
	since  int           // passes begun before it waited
	result chan boarding // holds one
}

// boarding is what came of a traveller's waiting.
type boarding struct {
	feed *feed
	err  error
}

// whole reports whether the server is known to stream all files only.
func (c *Client) whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.wholeTill)
}

// streamsWhole remembers that for a while: the server may be upgraded.
func (c *Client) streamsWhole() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.wholeTill) {
		return
	}
	c.log.Info("this Model Express server is older than 0.4.0: it streams whole models only, one at a time", zap.Stringer("server", c.server))
	c.wholeTill = time.Now().Add(c.limits.whole)
}

// board waits for file to come by.
func (c *Client) board(ctx context.Context, rev fetcher.Revision, file fetcher.File) (*feed, error) {
	t, mine, err := c.joinTour(rev, file)
	if err != nil {
		return nil, err
	}
	select {
	case r := <-mine.result:
		return r.feed, r.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(w *traveller) bool { return w == mine })
	t.mayEnd()
	select {
	case r := <-mine.result: // it came by just now
		if r.feed != nil {
			r.feed.stop()
		}
	default:
	}
	return nil, fmt.Errorf("wait for %s of %s from %s: %w", file.Path, rev, c.server, context.Cause(ctx))
}

func (c *Client) joinTour(rev fetcher.Revision, file fetcher.File) (*tour, *traveller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tours[rev]
	if t == nil {
		t = &tour{client: c, rev: rev}
		t.ctx, t.cancel = context.WithCancel(c.life)
		if err := c.start(t.run); err != nil {
			t.cancel()
			return nil, nil, err
		}
		c.tours[rev] = t
	}
	mine := &traveller{file: file, since: t.passes, result: make(chan boarding, 1)}
	t.waiting = append(t.waiting, mine)
	return t, mine, nil
}

// mayEnd ends the tour if nobody has anything of it. The caller holds Client.mu.
func (t *tour) mayEnd() {
	if len(t.waiting) == 0 && !t.riding {
		t.cancel()
		if t.client.tours[t.rev] == t {
			delete(t.client.tours, t.rev)
		}
	}
}

// run goes round until nobody waits, or a pass fails.
func (t *tour) run() {
	defer t.cancel()
	for {
		t.client.mu.Lock()
		t.passes++
		t.client.mu.Unlock()
		err := t.pass()
		if t.over(err) {
			return
		}
	}
}

// over ends what a pass decides: without an error, that what was waited for since before
// it began is not to be had.
func (t *tour) over(err error) bool {
	c := t.client
	c.mu.Lock()
	defer c.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(w *traveller) bool {
		verdict := err
		if verdict == nil && w.since < t.passes {
			verdict = fmt.Errorf("read %s of %s from %s: %w: it is not among the files that come", w.file.Path, t.rev, c.server, fetcher.ErrAbsent)
		}
		if verdict == nil {
			return false
		}
		w.result <- boarding{err: verdict}
		return true
	})
	t.mayEnd()
	return t.ctx.Err() != nil
}

// pass reads one stream of all files. It ends, whatever the server sends: each file that it
// lists may come once, and what nobody waits for is passed over for Config.Wait at most.
func (t *tour) pass() error {
	what := fmt.Sprintf("read all of %s from %s", t.rev, t.client.server)
	asked, err := t.client.ask(t.ctx, t.rev)
	if err != nil {
		return err
	}
	return t.client.withToken(func() error {
		left, wait := maps.Clone(asked.sizes), t.client.cfg.Wait
		ctx, cancel := context.WithCancelCause(t.ctx)
		defer cancel(nil)
		late := time.AfterFunc(t.client.limits.answer, func() { cancel(unreachable("nothing came in %s", t.client.limits.answer)) })
		defer late.Stop()
		useless := time.AfterFunc(wait, func() { cancel(unreachable("nothing that is wanted came in %s", wait)) })
		defer useless.Stop()
		tape, err := t.client.play(ctx, what, t.rev, nil)
		var riding *feed
		for err == nil {
			var chunk *modelexpresspb.FileChunk
			late.Reset(t.client.limits.answer)
			chunk, err = tape.next()
			late.Stop()
			if err != nil {
				break
			}
			if chunk.Offset == 0 {
				if err = strike(left, what, chunk); err != nil {
					break
				}
				if riding = t.taker(what, chunk); riding != nil {
					useless.Stop() // who reads it says how slow it may be
				}
			}
			if riding != nil && !t.give(what, riding, chunk) {
				riding = nil
				useless.Reset(wait)
			}
		}
		if riding != nil {
			t.leave(riding, err)
		}
		if err == io.EOF {
			return nil
		}
		return err
	})
}

// strike strikes the file that begins with chunk from left, what the server lists and has
// not sent yet.
func strike(left map[string]int64, what string, chunk *modelexpresspb.FileChunk) error {
	if size, ok := left[chunk.RelativePath]; !ok || chunk.TotalSize != uint64(size) {
		return unreachable("%s: %q of %d bytes comes, which is not listed so or comes twice", what, clean(chunk.RelativePath), chunk.TotalSize)
	}
	delete(left, chunk.RelativePath)
	return nil
}

// taker returns the feed of whoever waits for the file that begins with chunk, or nil.
func (t *tour) taker(what string, chunk *modelexpresspb.FileChunk) *feed {
	t.client.mu.Lock()
	defer t.client.mu.Unlock()
	i := slices.IndexFunc(t.waiting, func(w *traveller) bool { return w.file.Path.String() == chunk.RelativePath })
	if i < 0 {
		return nil
	}
	w := t.waiting[i]
	t.waiting = slices.Delete(t.waiting, i, i+1)
	if err := suits(what, chunk, w.file); err != nil {
		w.result <- boarding{err: err}
		t.mayEnd()
		return nil
	}
	t.riding = true
	f := newFeed(t.client.life)
	w.result <- boarding{feed: f}
	return f
}

// give hands over chunk; it returns false if no more of the file is to be given.
func (t *tour) give(what string, f *feed, chunk *modelexpresspb.FileChunk) bool {
	unread := time.NewTimer(t.client.limits.unread)
	defer unread.Stop()
	select {
	case f.chunks <- chunk.Data:
		if !chunk.IsLastChunk {
			return true
		}
		t.leave(f, io.EOF)
	case <-f.wanted.Done():
		t.leave(f, context.Canceled)
	case <-unread.C:
		t.leave(f, unreachable("%s: %q was not read for %s, and others wait", what, clean(chunk.RelativePath), t.client.limits.unread))
	}
	return false
}

// leave ends what is being given.
func (t *tour) leave(f *feed, err error) {
	f.finish(err)
	f.stop()
	t.client.mu.Lock()
	defer t.client.mu.Unlock()
	t.riding = false
	t.mayEnd()
}
