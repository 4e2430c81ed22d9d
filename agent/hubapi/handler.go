package hubapi

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// Config is what a Handler needs.
type Config struct {
	Library Library     // required
	Log     *zap.Logger // nil logs nothing
}

// Handler is the Hub's HTTP API over a Library. It is safe for concurrent use.
type Handler struct {
	lib Library
	log *zap.Logger
}

// New returns a Handler of cfg.Library.
func New(cfg Config) (*Handler, error) {
	if cfg.Library == nil {
		return nil, errors.New("hubapi: no library to serve")
	}
	return &Handler{cfg.Library, cmp.Or(cfg.Log, zap.NewNop())}, nil
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to, err := parseRoute(r.URL.EscapedPath())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	allow := "GET, HEAD"
	if to.action == actPathsInfo {
		allow = "POST"
	}
	switch {
	case to.action == "" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		refuse(w, answer{http.StatusNotFound, "", "this cache serves no such page"})
	case !slices.Contains(strings.Split(allow, ", "), r.Method):
		w.Header().Set("Allow", allow)
		refuse(w, answer{http.StatusMethodNotAllowed, "", r.Method + " is not served here: this is a read-only cache"})
	case to.action == actWhoami:
		refuse(w, answer{http.StatusUnauthorized, "", msgAnonymous})
	case to.action == actRefs || to.action == actAuthCheck:
		h.serveRefs(w, r, to)
	default:
		h.serveRevision(w, r, to)
	}
}

// serveRevision answers what is about one Revision.
func (h *Handler) serveRevision(w http.ResponseWriter, r *http.Request, to route) {
	m, err := h.lib.Manifest(r.Context(), to.repo, to.ref, credential(r))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("X-Repo-Commit", m.Revision.Commit.String())
	switch to.action {
	case actInfo:
		writeJSON(w, http.StatusOK, infoOf(m, isTrue(r.URL.Query().Get("blobs"))))
	case actTree:
		h.serveTree(w, r, m, to.path)
	case actPathsInfo:
		h.servePathsInfo(w, r, m)
	case actResolve:
		h.serveFile(w, r, m, to.path)
	}
}

// serveFile answers with a file's verified bytes, or the Range asked for.
func (h *Handler) serveFile(w http.ResponseWriter, r *http.Request, m *fetcher.Manifest, p fetcher.Path) {
	i, ok := slices.BinarySearchFunc(m.Files, p.String(), func(f fetcher.File, s string) int { return strings.Compare(f.Path.String(), s) })
	if !ok {
		h.fail(w, r, &badName{codeEntry, fmt.Errorf("%s has no file %s", m.Revision, p)})
		return
	}
	f := m.Files[i]
	content, err := h.lib.Open(r.Context(), m.Revision, f, credential(r))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.fail(w, r, &badName{codeNotCached, fmt.Errorf("%s of %s is not cached on this node", p, m.Revision)})
		return
	case err != nil:
		h.fail(w, r, err)
		return
	}
	defer content.Close()
	head := w.Header()
	head.Set("ETag", `"`+f.Digest.Hex()+`"`)
	head.Set("Content-Type", "text/plain; charset=utf-8")
	if f.Digest.Algorithm() == fetcher.SHA256 {
		head.Set("X-Linked-Etag", `"`+f.Digest.Hex()+`"`)
		head.Set("X-Linked-Size", strconv.FormatInt(f.Size, 10))
		head.Set("Content-Type", "application/octet-stream")
	}
	head.Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": path.Base(p.String())}))
	// The file may be anything, a page with scripts too: no browser runs it.
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	http.ServeContent(w, r, "", time.Time{}, content)
}

// serveRefs answers with the Refs known here, as the Hub lists them: branches and
// tags are not told apart in a cache, so all are branches but pull requests.
func (h *Handler) serveRefs(w http.ResponseWriter, r *http.Request, to route) {
	refs, err := h.lib.Refs(r.Context(), to.repo, credential(r))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if to.action == actAuthCheck {
		writeJSON(w, http.StatusOK, struct{}{})
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
		} else if _, pinned := parsedCommit(name); pinned {
			continue
		}
		list[group] = append(list[group], ref{name, full, commit.String()})
	}
	for _, l := range list {
		slices.SortFunc(l, func(a, b ref) int { return strings.Compare(a.Name, b.Name) })
	}
	writeJSON(w, http.StatusOK, list)
}

func parsedCommit(name string) (fetcher.Commit, bool) {
	c, err := fetcher.ParseCommit(name)
	return c, err == nil
}

// credential returns the request's token: "Authorization: Bearer hf_…".
func credential(r *http.Request) fetcher.Secret {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return fetcher.Secret{}
	}
	return fetcher.NewSecret(strings.TrimSpace(token))
}

// isTrue reads a boolean of a query or form: Python's clients send "True".
func isTrue(s string) bool {
	v, err := strconv.ParseBool(s)
	return err == nil && v
}
