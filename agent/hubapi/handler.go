package hubapi

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// Config is what a Handler needs.
type Config struct {
	Library Library     // required
	Log     *zap.Logger // nil logs nothing
	// Admit says whether an address may ask anything at all, and for which
	// namespace it asks. nil admits everyone, for no namespace: the demo, tests.
	Admit func(netip.Addr) (namespace string, ok bool)
}

// Handler is the Hub's HTTP API over a Library. It is safe for concurrent use.
type Handler struct {
	lib   Library
	log   *zap.Logger
	admit func(netip.Addr) (namespace string, ok bool)
}

// New returns a Handler of cfg.Library.
func New(cfg Config) (*Handler, error) {
	if cfg.Library == nil {
		return nil, errors.New("hubapi: no library to serve")
	}
	h := &Handler{cfg.Library, cmp.Or(cfg.Log, zap.NewNop()), cfg.Admit}
	if h.admit == nil {
		h.admit = func(netip.Addr) (string, bool) { return "", true }
	}
	return h, nil
}

// call is one request on its way to an answer.
type call struct {
	*Handler
	w   http.ResponseWriter
	r   *http.Request
	who Caller
	to  route
}

// ServeHTTP answers one request. Of a stranger's nothing is read but where it came
// from: what it says about that itself (X-Forwarded-For and its like) has no say.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Handler: h, w: w, r: r}
	defer c.note()()
	if r.ContentLength != 0 {
		c.hearUntil(time.Now().Add(patience))
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // the zero Addr, if it is none, is nobody's
	namespace, ok := h.admit(from.Addr())
	if !ok {
		w.Header().Set("Connection", "close") // with what else it would send
		c.refuse(answer{http.StatusForbidden, "", msgStranger})
		return
	}
	var err error
	if c.who, err = callerOf(r.Header, namespace); err != nil {
		c.fail(err)
		return
	}
	if c.to, err = parseRoute(r.URL.EscapedPath()); err != nil {
		c.fail(err)
		return
	}
	c.answer()
}

// answer does what the route says.
func (c *call) answer() {
	allow := "GET, HEAD"
	if c.to.action == actPathsInfo {
		allow = "POST"
	}
	method := c.r.Method
	switch {
	case c.to.action == "" && (method == http.MethodGet || method == http.MethodHead):
		c.refuse(answer{http.StatusNotFound, "", "this cache serves no such page"})
	case !slices.Contains(strings.Split(allow, ", "), method):
		c.w.Header().Set("Allow", allow)
		c.refuse(answer{http.StatusMethodNotAllowed, "", "not served here: this is a read-only cache"})
	case c.to.action == actWhoami:
		c.refuse(answer{http.StatusUnauthorized, "", msgAnonymous})
	case c.to.action == actRefs || c.to.action == actAuthCheck:
		c.refs()
	default:
		c.revision()
	}
}

// revision answers what is about one Revision.
func (c *call) revision() {
	var asked []string
	if c.to.action == actPathsInfo { // before anything is held for it
		var err error
		if asked, err = c.pathsAsked(); err != nil {
			c.fail(&badName{"", fmt.Errorf("paths-info: %w", err)})
			return
		}
	}
	m, err := c.lib.Manifest(c.r.Context(), c.who, c.to.repo, c.to.ref)
	if err != nil {
		c.fail(err)
		return
	}
	c.w.Header().Set("X-Repo-Commit", m.Revision.Commit.String())
	switch c.to.action {
	case actInfo:
		c.info(m)
	case actTree:
		c.tree(m)
	case actPathsInfo:
		c.pathsInfo(m, asked)
	case actResolve:
		c.file(m)
	}
}

// refs answers with the Refs known here, as the Hub lists them: branches and tags are
// not told apart in a cache, so all are branches but pull requests.
func (c *call) refs() {
	refs, err := c.lib.Refs(c.r.Context(), c.who, c.to.repo)
	if err != nil {
		c.fail(err)
		return
	}
	if c.to.action == actAuthCheck {
		c.json(http.StatusOK, struct{}{})
		return
	}
	type ref struct {
		Name   string `json:"name"`
		Ref    string `json:"ref"`
		Commit string `json:"targetCommit"`
	}
	list := map[string][]ref{"branches": {}, "tags": {}, "converts": {}, "pullRequests": {}}
	for name, commit := range refs {
		group, full := "branches", "refs/heads/"+name
		if pr, ok := strings.CutPrefix(name, "refs/pr/"); ok {
			group, full, name = "pullRequests", name, pr
		} else if _, err := fetcher.ParseCommit(name); err == nil {
			continue // a pinned commit is no Ref of the Hub's
		}
		list[group] = append(list[group], ref{name, full, commit.String()})
	}
	for _, l := range list {
		slices.SortFunc(l, func(a, b ref) int { return strings.Compare(a.Name, b.Name) })
	}
	c.json(http.StatusOK, list)
}

// slowest is the pace, in bytes a second, that a client must keep to be sent an
// answer to its end: one that stops reading holds a Blob open, and its room with it.
const slowest = 1 << 20

// patience is what a client has beside that.
const patience = time.Minute

// hearUntil bounds how long the client may take to send a body; zero ends that.
func (c *call) hearUntil(end time.Time) { _ = http.NewResponseController(c.w).SetReadDeadline(end) }

// within bounds how long the client may take for an answer of so many bytes. Where
// connections have no deadlines (the demo's, a test's) there is nothing to bound.
func (c *call) within(bytes int64) {
	take := patience + time.Duration(bytes/slowest)*time.Second
	_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(take))
}
