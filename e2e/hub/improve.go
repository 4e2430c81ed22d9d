package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
)

// The empty file's names, in LFS and in git.
const (
	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	emptyBlob   = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
)

// improve makes hfd's answer to a read the real Hub's.
func (h *Hub) improve(c *call, res *http.Response) error {
	switch {
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return nil
	case res.StatusCode >= 400:
		return h.explain(c, res)
	case c.verb == "tree":
		return h.paginate(res)
	case c.verb == "" || c.verb == "revision":
		return h.describe(c, res)
	case c.verb == "resolve":
		link(res.Header)
	}
	return nil
}

// explain puts the Hub's error in the place of hfd's, which says 404 or 500 and not
// what of repository, revision and file is missing.
func (h *Hub) explain(c *call, res *http.Response) error {
	w := httptest.NewRecorder()
	commit, err := h.hfd.commit(res.Request.Context(), c.target.repo, c.rev)
	switch {
	case errors.Is(err, errNoRepo):
		noRepository(w, c.token)
	case errors.Is(err, errNoRevision):
		fail(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+c.rev)
	case err != nil:
		return err
	default:
		w.Header().Set("X-Repo-Commit", commit)
		fail(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
	}
	return replace(res, w.Result())
}

// replace answers with by instead of what hfd said.
func replace(res, by *http.Response) error {
	res.Body.Close()
	res.StatusCode, res.Status, res.Header = by.StatusCode, by.Status, by.Header
	body, err := io.ReadAll(by.Body)
	setBody(res, body)
	return err
}

func setBody(res *http.Response, body []byte) {
	res.Body = io.NopCloser(bytes.NewReader(body))
	res.ContentLength = int64(len(body))
	res.Header.Set("Content-Length", strconv.Itoa(len(body)))
}

// paginate gives the page of hfd's listing that was asked for; the cursor is the number
// of its first entry. Entries without a path, by which hfd means directories, go. An
// empty file is one kept in git: hfd takes it for an LFS file.
func (h *Hub) paginate(res *http.Response) error {
	var all, files []map[string]any
	if err := decode(res, &all); err != nil {
		return err
	}
	for _, entry := range all {
		if entry["path"] == "" {
			continue
		}
		if entry["size"] == 0.0 {
			delete(entry, "lfs")
		}
		files = append(files, entry)
	}
	asked := res.Request.URL
	query := asked.Query()
	from, _ := strconv.Atoi(query.Get("cursor"))
	from = min(max(from, 0), len(files))
	to := min(from+h.pageSize, len(files))
	if to < len(files) {
		query.Set("cursor", strconv.Itoa(to))
		next := url.URL{Scheme: "http", Host: res.Request.Host, Path: asked.Path, RawPath: asked.RawPath, RawQuery: query.Encode()}
		res.Header.Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next.String()))
	}
	return encode(res, append([]map[string]any{}, files[from:to]...))
}

// describe says in a repository's info who may see it. hfd answers for a revision that
// it does not have with an info that has no commit.
func (h *Hub) describe(c *call, res *http.Response) error {
	var info map[string]any
	if err := decode(res, &info); err != nil {
		return err
	}
	if info["sha"] == "" {
		return h.explain(c, res)
	}
	visible, _ := c.repo.access(c.token)
	info["private"] = visible == private
	if visible == gated {
		info["gated"] = "manual"
	}
	return encode(res, info)
}

func decode(res *http.Response, v any) error {
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(v)
}

func encode(res *http.Response, v any) error {
	body, err := json.Marshal(v)
	setBody(res, body)
	return err
}

// link adds what the Hub says of an LFS file beside its content. hfd's ETag is the
// SHA-256 that the pointer in git names, or a regular file's git object name.
func link(h http.Header) {
	h.Set("Accept-Ranges", "bytes")
	etag := strings.Trim(h.Get("ETag"), `"`)
	switch {
	case etag == emptySHA256:
		h.Set("ETag", `"`+emptyBlob+`"`)
		return
	case len(etag) != len(emptySHA256):
		return
	}
	size := h.Get("Content-Length")
	if span := h.Get("Content-Range"); span != "" {
		_, size, _ = strings.Cut(span, "/")
	}
	h.Set("X-Linked-Etag", h.Get("ETag"))
	h.Set("X-Linked-Size", size)
}
