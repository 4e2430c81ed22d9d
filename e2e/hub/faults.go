package hub

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// repository is what was commanded for a repository, and what was sent of it. It is
// there as soon as it is named, whether or not hfd has it.
type repository struct {
	mu      sync.Mutex    // guards all below
	changed chan struct{} // closed, and replaced, when a fault was commanded or lifted

	visible  visibility
	readers  map[string]bool // tokens that may read what is not public
	limit    time.Time       // requests are answered 429 until then
	rate     int64           // content bytes a second; 0: no limit
	due      time.Time       // when the bytes sent so far are paid for
	cuts     int             // how many answers are still to be cut
	cutAfter int64           // content bytes
	stalls   int             // how many Stalls hold now
	aways    int             // how many Aways hold now
	flips    map[bit]int
	traffic  Traffic
}

// bit names the lowest bit of a byte of a file.
type bit struct {
	path   string
	offset int64
}

// repository returns the one of that name.
func (h *Hub) repository(name string) *repository {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.repos[name]
	if r == nil {
		r = &repository{changed: make(chan struct{}), flips: map[bit]int{}, traffic: Traffic{Bytes: map[string]int64{}}}
		h.repos[name] = r
	}
	return r
}

// change changes r, and has all answers under way look at it.
func (r *repository) change(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
	close(r.changed)
	r.changed = make(chan struct{})
}

// Throttle limits the content of repo, over all connections together; 0 lifts it.
func (h *Hub) Throttle(repo string, bytesPerSecond int64) {
	r := h.repository(repo)
	r.change(func() { r.rate, r.due = bytesPerSecond, time.Time{} })
}

// Cut closes the connection of each of the next times answers that have sent this many
// bytes of repo's content and have more to send; 0 times lifts it.
func (h *Hub) Cut(repo string, afterBytes int64, times int) {
	r := h.repository(repo)
	r.change(func() { r.cutAfter, r.cuts = afterBytes, times })
}

// Stall sends nothing more of repo's content, and keeps the connections, until release
// is called or the client is gone.
func (h *Hub) Stall(repo string) (release func()) {
	r := h.repository(repo)
	r.change(func() { r.stalls++ })
	return sync.OnceFunc(func() { r.change(func() { r.stalls-- }) })
}

// Away makes the Hub unreachable for whoever asks about repo: each such connection is
// closed without an answer, those under way too, until back is called.
func (h *Hub) Away(repo string) (back func()) {
	r := h.repository(repo)
	r.change(func() { r.aways++ })
	return sync.OnceFunc(func() { r.change(func() { r.aways-- }) })
}

// away reports whether nobody is to get an answer about r.
func (r *repository) away() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.aways > 0
}

// Flip sends a file of repo, at every revision, with the lowest bit at offset flipped,
// until restore is called.
func (h *Hub) Flip(repo, path string, offset int64) (restore func()) {
	r, at := h.repository(repo), bit{path, offset}
	r.change(func() { r.flips[at]++ })
	return sync.OnceFunc(func() {
		r.change(func() {
			if r.flips[at]--; r.flips[at] == 0 {
				delete(r.flips, at)
			}
		})
	})
}

// RateLimit answers all requests for repo, and for no other, with 429 for so long; 0 lifts
// it.
func (h *Hub) RateLimit(repo string, d time.Duration) {
	r := h.repository(repo)
	r.change(func() { r.limit = time.Now().Add(d) })
}

// limited is for how long requests are still answered 429.
func (r *repository) limited() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.limit)
}

var errCut = errors.New("the connection is cut")

// next waits until an answer that sent so many bytes of content may send more, and
// returns how many of the n it has ready.
func (r *repository) next(ctx context.Context, sent int64, n int) (int, error) {
	for {
		r.mu.Lock()
		allowed, wait, err := r.allowed(time.Now(), sent, n)
		changed := r.changed
		r.mu.Unlock()
		if allowed > 0 || err != nil {
			return allowed, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
}

const (
	bursts  = 50                     // a second, of a throttled repository
	arrears = 100 * time.Millisecond // how far a throttle makes up for what it slept too long
)

// allowed returns how many of n bytes may be sent now, or how long to wait. r.mu is
// held.
func (r *repository) allowed(now time.Time, sent int64, n int) (int, time.Duration, error) {
	if r.aways > 0 {
		return 0, 0, errCut
	}
	if r.cuts > 0 {
		if sent >= r.cutAfter {
			r.cuts--
			return 0, 0, errCut
		}
		n = int(min(int64(n), r.cutAfter-sent))
	}
	if r.stalls > 0 {
		return 0, math.MaxInt64, nil
	}
	if r.rate > 0 {
		if wait := r.due.Sub(now); wait > 0 {
			return 0, wait, nil
		}
		n = int(min(int64(n), max(r.rate/bursts, 1)))
		if earliest := now.Add(-arrears); r.due.Before(earliest) {
			r.due = earliest
		}
		r.due = r.due.Add(time.Duration(n) * time.Second / time.Duration(r.rate))
	}
	return n, 0, nil
}

// flip returns part, which is at offset of a file, with its bits flipped: part itself
// if there are none.
func (r *repository) flip(path string, offset int64, part []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	flipped := part
	for at := range r.flips {
		if i := at.offset - offset; at.path == path && i >= 0 && i < int64(len(part)) {
			if &flipped[0] == &part[0] {
				flipped = append([]byte(nil), part...)
			}
			flipped[i] ^= 1
		}
	}
	return flipped
}
