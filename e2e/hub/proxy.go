package hub

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
)

// target is what a request's path names in a repository.
type target struct {
	repo string // "org/name" or "datasets/org/name"
	verb string // revision, tree, resolve, auth-check, ... or "" for the repository
	rev  string // as it was escaped
	path string // of a file, decoded
}

var (
	apiTarget     = regexp.MustCompile(`^/api/(models|datasets)/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+)(?:/.*)?)?)?$`)
	resolveTarget = regexp.MustCompile(`^/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$`)
)

func parseTarget(u *url.URL) (t target, ok bool) {
	escaped := u.EscapedPath()
	if m := apiTarget.FindStringSubmatch(escaped); m != nil {
		t = target{repo: m[2], verb: m[3], rev: m[4]}
		if m[1] == "datasets" {
			t.repo = "datasets/" + t.repo
		}
	} else if m := resolveTarget.FindStringSubmatch(escaped); m != nil {
		path, err := url.PathUnescape(m[4])
		if err != nil {
			return t, false
		}
		t = target{repo: m[1] + m[2], verb: "resolve", rev: m[3], path: path}
	} else {
		return t, false
	}
	if t.rev == "" {
		t.rev = "main"
	}
	return t, true
}

// call is one request for a repository on its way to an answer.
type call struct {
	target
	repo  *repository
	token string // "": nobody's
}

type callKey struct{}

// ServeHTTP answers what the proxy answers itself, and has hfd answer the rest.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, known := parseTarget(r.URL)
	setHeaders(w.Header(), h.requests.Add(1), t)
	if !known {
		// Writes are those of who creates and uploads. Reads would go past all that is
		// commanded: hfd has content in git and by its LFS name too.
		if reads(r) {
			noPage(w)
			return
		}
		h.proxy.ServeHTTP(w, r)
		return
	}
	c := &call{target: t, repo: h.repository(t.repo), token: bearer(r)}
	c.repo.countRequest()
	if c.repo.away() {
		panic(http.ErrAbortHandler) // which closes the connection, and says nothing
	}
	if wait := c.repo.limited(); wait > 0 {
		tooMany(w, wait)
		return
	}
	if !h.admit(w, c) {
		return
	}
	switch {
	case c.verb == "auth-check" && reads(r):
		h.authCheck(w, r, c)
		return
	case c.verb == "resolve" && r.Method == http.MethodGet:
		w = &contentWriter{ResponseWriter: w, ctx: r.Context(), repo: c.repo, path: c.path}
	}
	h.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
}

func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// newProxy makes what asks hfd.
func (h *Hub) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: h.hfd.client.Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(h.hfd.url)
			r.Out.Host = r.In.Host // hfd makes the URLs of LFS objects of it
		},
		ModifyResponse: func(res *http.Response) error {
			c, ok := res.Request.Context().Value(callKey{}).(*call)
			if !ok || !reads(res.Request) {
				return nil
			}
			return h.improve(c, res)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			fail(w, http.StatusBadGateway, "", fmt.Sprintf("no answer of hfd: %v", err))
		},
	}
}
