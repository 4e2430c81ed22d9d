package hubtest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Down cuts all connections of the Hub and its CDN, and every new one, until it
// is called with false.
func (h *Hub) Down(down bool) {
	h.down.Store(down)
	if down {
		h.hub.CloseClientConnections()
		h.cdn.CloseClientConnections()
	}
}

// Corrupt flips one bit in the middle of the file in its next n deliveries; with
// n < 0, in all. A delivery is a response that covers the byte in the middle.
func (h *Hub) Corrupt(repo, path string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.corrupt[fileKey{repo, path}] = n
}

// Throttle limits all content together to this many bytes a second; 0 lifts it.
func (h *Hub) Throttle(bytesPerSecond int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rate = bytesPerSecond
	h.slot = time.Time{}
}

// Hold makes content responses of the file wait, after their headers, until
// release is called or the client goes away.
func (h *Hub) Hold(repo, path string) (release func()) {
	key, held := fileKey{repo, path}, make(chan struct{})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holds[key] = append(h.holds[key], held)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if i := slices.Index(h.holds[key], held); i >= 0 {
			h.holds[key] = slices.Delete(h.holds[key], i, i+1)
			close(held)
		}
	}
}

// Intercept lets f answer any request, of the CDN too, before anything else does;
// f returns true if it did. X-Request-Id and RateLimit are set already, and may
// be deleted. nil ends it.
func (h *Hub) Intercept(f func(http.ResponseWriter, *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.intercept = f
}

// PageSize sets how many entries a page of a tree has; 1000 at first.
func (h *Hub) PageSize(entries int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pageSize = entries
}

// ResolveCache makes regular files answer with a relative redirect to
// /api/resolve-cache/, as the real Hub may do.
func (h *Hub) ResolveCache(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cacheHop = on
}

// Rename answers requests for from with a relative redirect to the repository to.
func (h *Hub) Rename(from, to string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.renamed[from] = to
}

// ExpireURLs makes all CDN URLs handed out so far answer 403.
func (h *Hub) ExpireURLs() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
}

// takeCorruption reports whether a delivery of the file is to be corrupted.
func (h *Hub) takeCorruption(key fileKey) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.corrupt[key]
	if n > 0 {
		h.corrupt[key] = n - 1
	}
	return n != 0
}

// waitHeld waits until nothing holds the file.
func (h *Hub) waitHeld(ctx context.Context, key fileKey) error {
	for {
		h.mu.Lock()
		var held chan struct{}
		if len(h.holds[key]) > 0 {
			held = h.holds[key][0]
		}
		h.mu.Unlock()
		if held == nil {
			return nil
		}
		select {
		case <-held:
		case <-h.closing:
			return fmt.Errorf("the test has ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pace waits until n more bytes may be sent.
func (h *Hub) pace(ctx context.Context, n int) error {
	h.mu.Lock()
	var wait time.Duration
	if h.rate > 0 {
		now := time.Now()
		if h.slot.Before(now) {
			h.slot = now
		}
		wait = h.slot.Sub(now)
		h.slot = h.slot.Add(time.Duration(n) * time.Second / time.Duration(h.rate))
	}
	h.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-h.closing:
		return fmt.Errorf("the test has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// chunk is how many bytes to send at a time so that pace is smooth.
func (h *Hub) chunk() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rate == 0 {
		return 1 << 20
	}
	return min(max(h.rate/50, 1), 1<<20)
}
