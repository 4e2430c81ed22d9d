package modelexpress

import (
	"context"
	"slices"
	"sync"
	"time"
)

// How long a place must have been idle for somebody who waits to take it away: a file that
// is wanted right now, or one that is only being opened. A file that has lost its place
// begins anew, and has what it has already discarded.
const (
	eager   = 2 * time.Second
	patient = 30 * time.Second
)

// places bounds the files that are streamed at once. A place is held from before a stream
// begins until the file's last byte was read, but one that nobody reads meanwhile may be
// given to others: whoever reads the one may be waiting for the other.
type places struct {
	mu     sync.Mutex // guards all below, the places included
	free   int
	held   []*place
	change chan struct{} // closed when there is something to try again for
}

type place struct {
	idle time.Time // since when nobody reads; zero: somebody does
	stop func()    // ends the stream
}

func newPlaces(n int) *places { return &places{free: n, change: make(chan struct{})} }

// take waits for a place, which is in use then.
func (p *places) take(ctx context.Context, idle time.Duration) (*place, error) {
	for {
		mine, change := p.try(idle)
		if mine != nil {
			return mine, nil
		}
		again := time.NewTimer(eager / 2)
		select {
		case <-change:
		case <-again.C: // one may have become idle for long enough
		case <-ctx.Done():
			again.Stop()
			return nil, context.Cause(ctx)
		}
		again.Stop()
	}
}

func (p *places) try(idle time.Duration) (*place, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == 0 {
		now, longest := time.Now(), -1
		for i, h := range p.held {
			if !h.idle.IsZero() && now.Sub(h.idle) >= idle && (longest < 0 || h.idle.Before(p.held[longest].idle)) {
				longest = i
			}
		}
		if longest < 0 {
			return nil, p.change
		}
		p.held[longest].stop()
		p.drop(longest)
	}
	p.free--
	mine := &place{}
	p.held = append(p.held, mine)
	return mine, nil
}

// rest says that nobody reads from where h is for; stop ends its stream.
func (p *places) rest(h *place, stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.idle, h.stop = time.Now(), stop
}

// use says that h's stream is read from. It returns false if the place was taken away.
func (p *places) use(h *place) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.idle = time.Time{}
	return slices.Contains(p.held, h)
}

// leave gives h back, if it was not taken away.
func (p *places) leave(h *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.held, h); i >= 0 {
		p.drop(i)
	}
}

// drop frees the i-th place. The caller holds p.mu.
func (p *places) drop(i int) {
	p.held = slices.Delete(p.held, i, i+1)
	p.free++
	close(p.change)
	p.change = make(chan struct{})
}
