package hub

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// The Hub counts requests for files apart from all others (hub-docs, rate-limits.md).
const (
	resolvers = "resolvers"
	api       = "api"
)

// bucketOf says which of the Hub's limits a request to the endpoint counts against.
func (c *Client) bucketOf(u *url.URL) string {
	rest := strings.TrimPrefix(u.EscapedPath(), c.endpoint.EscapedPath())
	if strings.HasPrefix(rest, "/api/") && !strings.HasPrefix(rest, "/api/resolve-cache/") {
		return api
	}
	return resolvers
}

// limit is what the Hub counts together: the requests of one credential in one
// bucket (those without a credential for each address that they come from).
type limit struct {
	bucket string
	cred   fetcher.Secret
}

// maxShut bounds the limits that a gate keeps in mind. A request of one that it does
// not is sent, and refused by the Hub again.
const maxShut = 1024

// gate keeps back what the Hub has said that it would refuse, which is what RateLimit
// calls used up. A 429 that says no more may be about one repository (a mirror passes its
// upstream's on): whoever got it waits, nobody else.
type gate struct {
	mu   sync.Mutex // guards shut
	shut map[limit]time.Time
}

// left returns how long no request may be sent; 0: it may be.
func (g *gate) left(l limit) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, time.Until(g.shut[l]))
}

// close keeps requests back for wait, and for up to a tenth of that more: many nodes
// behind one address are told the same moment.
func (g *gate) close(l limit, wait time.Duration) {
	if wait <= 0 {
		return
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut[l].Before(now.Add(wait)) {
		return
	}
	_, known := g.shut[l]
	if g.shut == nil || !known && len(g.shut) >= maxShut {
		kept := make(map[limit]time.Time)
		for l, until := range g.shut {
			if until.After(now) {
				kept[l] = until
			}
		}
		g.shut = kept
	}
	if known || len(g.shut) < maxShut {
		g.shut[l] = now.Add(min(wait+rand.N(wait/10+1), maxRetryAfter))
	}
}

// heed closes the gate for what an answer of the endpoint says is used up, whichever
// bucket we took the request for.
func (c *Client) heed(cred fetcher.Secret, res *http.Response) {
	for _, b := range budgets(res.Header) {
		if b.left == 0 && (b.bucket == api || b.bucket == resolvers) {
			c.gate.close(limit{b.bucket, cred}, b.reset+time.Second)
		}
	}
}
