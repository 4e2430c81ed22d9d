package hubtest

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Counts says how many requests of each kind were received.
type Counts struct {
	API         int // below /api/
	ResolveHEAD int // of a file: its headers
	ResolveGET  int // of a file: content, or where it is
	CDN         int
	Refused     int // of API, ResolveHEAD and ResolveGET those that were answered with 429
}

func (c *Counts) add(method, kind string, refused bool) {
	switch {
	case kind == "cdn":
		c.CDN++
	case kind == "api":
		c.API++
	case method == http.MethodHead:
		c.ResolveHEAD++
	default:
		c.ResolveGET++
	}
	if refused {
		c.Refused++
	}
}

// Counts returns what was received since the start or the last ResetRequests.
func (h *Hub) Counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts
}

// RateLimit answers the Hub's next n requests (not the CDN's) with 429 and asks
// to come back after retryAfter, in whole seconds rounded up.
func (h *Hub) RateLimit(n int, retryAfter time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limited, h.wait = n, retryAfter
}

// Limit gives each credential, and all that come without one together (they come from
// one address here), this many requests below /api/ and this many of files in each
// window of time, as the real Hub does: 500 and 3,000 in 300 s without a credential.
// More are answered with 429. Zero windows end it.
func (h *Hub) Limit(api, resolvers int, window time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.windows = nil
	if window > 0 {
		h.windows = &windows{quota: map[string]int{"api": api, "resolvers": resolvers}, length: window, start: time.Now(), used: map[account]int{}}
	}
}

// windows are fixed: one follows the other, and each begins with nothing used.
type windows struct {
	quota  map[string]int // by bucket
	length time.Duration
	start  time.Time       // of the current window
	used   map[account]int // in it
}

type account struct{ bucket, authorization string }

// allowance is what RateLimit says of one bucket.
type allowance struct {
	left, quota   int
	reset, window time.Duration
	refused       bool
}

// take counts one request.
func (l *windows) take(bucket, authorization string, now time.Time) allowance {
	if past := now.Sub(l.start); past >= l.length {
		l.start = now.Add(-past % l.length)
		clear(l.used)
	}
	a := account{bucket, authorization}
	quota := l.quota[bucket]
	refused := l.used[a] >= quota
	if !refused {
		l.used[a]++
	}
	return allowance{quota - l.used[a], quota, l.start.Add(l.length).Sub(now), l.length, refused}
}

// plenty is what a Hub without limits says, as the real one does to a newcomer.
func plenty(bucket string) allowance {
	quota := map[string]int{"api": 500, "resolvers": 3000}[bucket]
	return allowance{left: quota - 1, quota: quota, reset: 300 * time.Second, window: 300 * time.Second}
}

func bucketOf(kind string) string {
	if kind == "api" {
		return "api"
	}
	return "resolvers"
}

// header sets what the Hub sends with every response.
func header(w http.ResponseWriter, bucket string, id int, a allowance) {
	w.Header().Set("X-Request-Id", fmt.Sprintf("Root=1-%08x", id))
	w.Header().Set("RateLimit", fmt.Sprintf(`"%s";r=%d;t=%d`, bucket, a.left, seconds(a.reset)))
	w.Header().Set("RateLimit-Policy", fmt.Sprintf(`"fixed window";"%s";q=%d;w=%d`, bucket, a.quota, seconds(a.window)))
}

// tooMany answers 429. A client waits one second beyond the reset that RateLimit
// names, so the reset is told one second short; below that only Retry-After is.
func tooMany(w http.ResponseWriter, bucket string, wait time.Duration) {
	w.Header().Del("RateLimit")
	if n := seconds(wait); n > 0 {
		w.Header().Set("RateLimit", fmt.Sprintf(`"%s";r=0;t=%d`, bucket, n-1))
	}
	refuse(w, wait)
}

func refuse(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(seconds(wait)))
	w.WriteHeader(http.StatusTooManyRequests)
	fmt.Fprint(w, `{"error":"We had to rate limit you"}`)
}

// seconds are whole ones, rounded up.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
