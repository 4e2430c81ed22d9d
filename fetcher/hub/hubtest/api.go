package hubtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// call is one request on its way to an answer.
type call struct {
	*Hub
	w     http.ResponseWriter
	r     *http.Request
	token string
}

// fail answers with an error in the Hub's form.
func (c *call) fail(status int, code, message string) {
	if code != "" {
		c.w.Header().Set("X-Error-Code", code)
	}
	c.w.Header().Set("X-Error-Message", message)
	c.json(status, map[string]string{"error": message})
}

func (c *call) unauthorized(message string) {
	c.w.Header().Set("WWW-Authenticate", `Bearer realm="Authentication required", charset="UTF-8"`)
	c.fail(http.StatusUnauthorized, "", message)
}

func (c *call) json(status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		c.t.Errorf("hubtest: %v", err)
	}
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	c.w.Write(body)
}

// target is what a request's path names.
type target struct {
	repo string // as AddRepo took it
	verb string // revision, tree, auth-check, resolve, or "" for the repository
	rev  string
	path string
}

// parseTarget reads an escaped path such as org/name/tree/main/sub, below
// /api/models/ (prefix "") or /api/datasets/ (prefix "datasets/").
func parseTarget(prefix, escaped string, verbs ...string) (target, bool) {
	parts := strings.Split(escaped, "/")
	at := len(parts)
	for i := 1; i <= 2 && i < len(parts); i++ {
		if slices.Contains(verbs, parts[i]) {
			at = i
			break
		}
	}
	if at > 2 {
		return target{}, false
	}
	t := target{repo: prefix + strings.Join(parts[:at], "/")}
	if at < len(parts) {
		t.verb = parts[at]
	}
	var err error
	if at+1 < len(parts) {
		t.rev, err = url.PathUnescape(parts[at+1])
	}
	if at+2 < len(parts) && err == nil {
		t.path, err = url.PathUnescape(strings.Join(parts[at+2:], "/"))
	}
	return t, err == nil
}

// api answers below /api/.
func (c *call) api() {
	escaped := strings.TrimPrefix(c.r.URL.EscapedPath(), "/api/")
	kind, rest, _ := strings.Cut(escaped, "/")
	if kind == "whoami-v2" {
		if c.token == "" {
			c.unauthorized("Invalid username or password.")
			return
		}
		c.json(http.StatusOK, map[string]string{"type": "user", "name": "someone"})
		return
	}
	if kind == "resolve-cache" {
		c.resolveCache(rest)
		return
	}
	prefix, ok := map[string]string{"models": "", "datasets": "datasets/"}[kind]
	if !ok {
		c.fail(http.StatusNotFound, "", "Sorry, we can't find the page you are looking for.")
		return
	}
	t, ok := parseTarget(prefix, rest, "revision", "tree", "auth-check")
	if !ok {
		c.fail(http.StatusNotFound, "", "Sorry, we can't find the page you are looking for.")
		return
	}
	if t.verb == "" || t.verb == "auth-check" {
		t.rev = "main"
	}
	commit, tree, ok := c.look(t, t.verb == "auth-check")
	if !ok {
		return
	}
	switch t.verb {
	case "auth-check":
		c.w.WriteHeader(http.StatusOK)
		fmt.Fprint(c.w, "OK")
	case "tree":
		c.tree(t, tree)
	default:
		c.info(t, commit, tree)
	}
}

// look finds the tree that t names, if the caller may see it, or answers.
// Content can be read by fewer than a listing if the repository is gated.
func (c *call) look(t target, content bool) (commit string, tree map[string]content, ok bool) {
	c.mu.Lock()
	r, moved := c.repos[t.repo], c.renamed[t.repo]
	var private, gated, reader bool
	if r != nil {
		private, gated, reader = r.private, r.gated, r.readers[c.token]
		if commit = r.refs[t.rev]; commit == "" {
			commit = t.rev
		}
		tree, ok = r.commits[commit]
	}
	c.mu.Unlock()
	switch {
	case moved != "":
		c.w.Header().Set("Location", strings.Replace(c.r.URL.RequestURI(), t.repo, moved, 1))
		c.w.WriteHeader(http.StatusTemporaryRedirect)
		return "", nil, false
	case (r == nil || private && !reader) && c.token == "":
		c.unauthorized("Invalid username or password.")
		return "", nil, false
	case r == nil || private && !reader:
		c.fail(http.StatusNotFound, "RepoNotFound", "Repository not found")
		return "", nil, false
	case gated && !reader && content:
		status := http.StatusForbidden
		if c.token == "" {
			status = http.StatusUnauthorized
		}
		c.fail(status, "GatedRepo", "Access to model "+t.repo+" is restricted and you are not in the authorized list.")
		return "", nil, false
	case !ok:
		c.fail(http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+t.rev)
		return "", nil, false
	}
	return commit, tree, true
}

func (c *call) info(t target, commit string, tree map[string]content) {
	c.mu.Lock()
	id, private, gated := c.repos[t.repo].id, c.repos[t.repo].private, c.repos[t.repo].gated
	c.mu.Unlock()
	siblings := []map[string]string{}
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		siblings = append(siblings, map[string]string{"rfilename": p})
	}
	answer := map[string]any{
		"_id": id, "id": strings.TrimPrefix(t.repo, "datasets/"), "sha": commit, "siblings": siblings,
		"private": private, "disabled": false, "gated": false,
	}
	if gated {
		answer["gated"] = "manual"
	}
	c.json(http.StatusOK, answer)
}

// entry is one line of a tree.
type entry struct {
	Type    string `json:"type"`
	OID     string `json:"oid"`
	Size    int64  `json:"size"`
	Path    string `json:"path"`
	LFS     *lfs   `json:"lfs,omitempty"`
	XetHash string `json:"xetHash,omitempty"`
}

type lfs struct {
	OID         string `json:"oid"`
	Size        int64  `json:"size"`
	PointerSize int    `json:"pointerSize"`
}

// tree answers one page; "cursor" is the index of its first entry.
func (c *call) tree(t target, files map[string]content) {
	query := c.r.URL.Query()
	entries := c.entries(t, files, query.Get("recursive") == "true" || query.Get("recursive") == "True")
	if t.path != "" && len(entries) == 0 {
		c.fail(http.StatusNotFound, "EntryNotFound", t.path+" does not exist")
		return
	}
	c.mu.Lock()
	size := c.pageSize
	c.mu.Unlock()
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && limit > 0 {
		size = min(size, limit)
	}
	from, _ := strconv.Atoi(query.Get("cursor"))
	from = min(max(from, 0), len(entries))
	to := min(from+size, len(entries))
	if to < len(entries) {
		query.Set("cursor", strconv.Itoa(to))
		c.w.Header().Set("Link", fmt.Sprintf(`<%s%s?%s>; rel="next"`, c.URL(), c.r.URL.EscapedPath(), query.Encode()))
	}
	c.json(http.StatusOK, entries[from:to])
}

// entries lists files and the directories above them, in order of path.
func (c *call) entries(t target, files map[string]content, recursive bool) []entry {
	c.mu.Lock()
	masked := c.repos[t.repo].gated && !c.repos[t.repo].readers[c.token]
	c.mu.Unlock()
	below := ""
	if t.path != "" {
		below = t.path + "/"
	}
	found := map[string]entry{}
	for p, f := range files {
		rest, ok := strings.CutPrefix(p, below)
		if !ok {
			continue
		}
		for i, ch := range rest {
			if dir := below + rest[:i]; ch == '/' && (recursive || !strings.Contains(rest[:i], "/")) {
				found[dir] = entry{Type: "directory", OID: gitSHA1([]byte(dir)), Path: dir}
			}
		}
		if !recursive && strings.Contains(rest, "/") {
			continue
		}
		e := entry{Type: "file", OID: f.OID, Size: f.Size, Path: p, XetHash: f.XetHash}
		if f.lfs {
			e.LFS = &lfs{f.Digest.Hex(), f.Size, len(pointer(f))}
			if masked {
				e.XetHash = strings.Repeat("*", 64) // huggingface_hub PR 4595
			}
		}
		found[p] = e
	}
	list := []entry{}
	for _, p := range slices.Sorted(maps.Keys(found)) {
		list = append(list, found[p])
	}
	return list
}
