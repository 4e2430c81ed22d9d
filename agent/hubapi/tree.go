package hubapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// maxPage is the Hub's own limit on the entries of one page of a tree.
const maxPage = 1000

// maxForm bounds the body of a paths-info request, in bytes.
const maxForm = 1 << 20

// info is a repository as ModelInfo and DatasetInfo of huggingface_hub read it.
// A cache does not know when a commit was made: there is no lastModified.
type info struct {
	ID       string    `json:"id"`
	ModelID  string    `json:"modelId,omitempty"`
	Author   string    `json:"author,omitempty"`
	SHA      string    `json:"sha"`
	Private  bool      `json:"private"`
	Gated    bool      `json:"gated"`
	Disabled bool      `json:"disabled"`
	Tags     []string  `json:"tags"`
	Likes    int       `json:"likes"`
	Down     int       `json:"downloads"`
	Used     int64     `json:"usedStorage"`
	Siblings []sibling `json:"siblings"`
}

// sibling is a file of an info; all but its name only on request (blobs=true).
type sibling struct {
	Name   string      `json:"rfilename"`
	Size   *int64      `json:"size,omitempty"`
	BlobID string      `json:"blobId,omitempty"`
	LFS    *siblingLFS `json:"lfs,omitempty"`
}

type siblingLFS struct {
	SHA256      string `json:"sha256"`
	Size        int64  `json:"size"`
	PointerSize int    `json:"pointerSize"`
}

func infoOf(m *fetcher.Manifest, blobs bool) info {
	repo := m.Revision.Repo
	author, _, owned := strings.Cut(repo.Name(), "/")
	if !owned {
		author = ""
	}
	out := info{ID: repo.Name(), Author: author, SHA: m.Revision.Commit.String(), Tags: []string{}, Used: m.Bytes(), Siblings: make([]sibling, 0, len(m.Files))}
	if repo.Kind() == fetcher.Model {
		out.ModelID = repo.Name()
	}
	for _, f := range m.Files {
		s := sibling{Name: f.Path.String()}
		if blobs {
			e := fileEntry(f)
			s.Size, s.BlobID = &f.Size, e.OID
			if e.LFS != nil {
				s.LFS = &siblingLFS{e.LFS.OID, e.LFS.Size, e.LFS.PointerSize}
			}
		}
		out.Siblings = append(out.Siblings, s)
	}
	return out
}

// entry is a line of a tree listing, as RepoFile and RepoFolder read it.
type entry struct {
	Type string `json:"type"` // file or directory
	OID  string `json:"oid"`
	Size int64  `json:"size"` // bytes; 0 for a directory
	Path string `json:"path"`
	LFS  *lfs   `json:"lfs,omitempty"`
}

type lfs struct {
	OID         string `json:"oid"`
	Size        int64  `json:"size"` // bytes
	PointerSize int    `json:"pointerSize"`
}

// fileEntry describes f. For an LFS file, git holds a pointer of a fixed form
// (git-lfs, docs/spec.md), whose name and size are computed if f has no OID.
func fileEntry(f fetcher.File) entry {
	e := entry{"file", f.OID, f.Size, f.Path.String(), nil}
	if f.Digest.Algorithm() != fetcher.SHA256 {
		e.OID = f.Digest.Hex()
		return e
	}
	pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", f.Digest.Hex(), f.Size)
	e.LFS = &lfs{f.Digest.Hex(), f.Size, len(pointer)}
	if e.OID == "" {
		e.OID = gitBlob(pointer)
	}
	return e
}

// dirEntry describes a directory. git's name of its tree depends on file modes,
// which a Manifest does not have: the name given is stable and unique, no more.
func dirEntry(rev fetcher.Revision, path string) entry {
	return entry{"directory", gitBlob("tree " + rev.Commit.String() + " " + path), 0, path, nil}
}

func gitBlob(content string) string {
	h := fetcher.NewHasher(fetcher.GitBlobSHA1, int64(len(content)))
	_, _ = h.Write([]byte(content))
	d, _ := h.Digest() // the content is ours: no collision
	return d.Hex()
}

// entriesOf lists the files and directories of m below dir ("" is the root), in
// order of path: those directly in it, or all.
func entriesOf(m *fetcher.Manifest, dir string, recursive bool) []entry {
	prefix := dir
	if dir != "" {
		prefix += "/"
	}
	var list []entry
	seen := map[string]bool{}
	for _, f := range m.Files {
		rest, ok := strings.CutPrefix(f.Path.String(), prefix)
		if !ok {
			continue
		}
		deep := false
		for i, c := range rest {
			if c != '/' {
				continue
			}
			deep = true
			if sub := prefix + rest[:i]; !seen[sub] {
				seen[sub] = true
				list = append(list, dirEntry(m.Revision, sub))
			}
			if !recursive {
				break
			}
		}
		if recursive || !deep {
			list = append(list, fileEntry(f))
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.Path, b.Path) })
	return list
}

// tree answers one page of a listing, with the next one's address in Link.
func (c *call) tree(m *fetcher.Manifest) {
	dir, query := c.to.path, c.r.URL.Query()
	limit := maxPage
	if s := query.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			c.fail(&badName{"", fmt.Errorf("limit %q: must be a number from 1 to %d", s, maxPage)})
			return
		}
		limit = min(n, maxPage)
	}
	after, err := base64.RawURLEncoding.DecodeString(query.Get("cursor"))
	if err != nil {
		c.fail(&badName{"", fmt.Errorf("cursor: %w", err)})
		return
	}
	list := entriesOf(m, dir.String(), isTrue(query.Get("recursive")))
	if len(list) == 0 && !dir.IsZero() {
		c.fail(&badName{codeEntry, fmt.Errorf("%s has no directory %s", m.Revision, dir)})
		return
	}
	from := 0
	if len(after) > 0 {
		from, _ = slices.BinarySearchFunc(list, string(after)+"\x00", func(e entry, s string) int { return strings.Compare(e.Path, s) })
	}
	page := list[from:]
	if len(page) > limit {
		page = page[:limit]
		query.Set("cursor", base64.RawURLEncoding.EncodeToString([]byte(page[limit-1].Path)))
		next := *c.r.URL
		next.Scheme, next.Host = origin(c.r)
		next.RawQuery = query.Encode()
		c.w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
		c.w.Header().Set("Vary", "X-Forwarded-Proto, X-Forwarded-Host")
	}
	c.json(http.StatusOK, append([]entry{}, page...))
}

// origin returns the scheme and host by which r's client knows this server. Links
// must be whole URLs: huggingface_hub asks for the next page by the link as it is
// (utils/_pagination.py). A proxy that ends TLS or rewrites Host tells what it was
// asked by X-Forwarded-Proto and X-Forwarded-Host, the client's own first.
func origin(r *http.Request) (scheme, host string) {
	scheme, host = "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	first := func(name string) string {
		v, _, _ := strings.Cut(r.Header.Get(name), ",")
		return strings.TrimSpace(v)
	}
	if proto := first("X-Forwarded-Proto"); proto == "http" || proto == "https" {
		scheme = proto
	}
	if forwarded := first("X-Forwarded-Host"); forwarded != "" {
		if u, err := url.Parse("http://" + forwarded); err == nil && u.Host == forwarded {
			host = forwarded
		}
	}
	return scheme, host
}

// pathsInfo answers what is known of each path asked for; unknown ones are left out,
// as on the Hub.
func (c *call) pathsInfo(m *fetcher.Manifest) {
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, maxForm)
	paths, err := pathsAsked(c.r)
	if err != nil {
		c.fail(&badName{"", fmt.Errorf("paths-info: %w", err)})
		return
	}
	known := map[string]entry{}
	for _, e := range entriesOf(m, "", true) {
		known[e.Path] = e
	}
	found := []entry{}
	for _, p := range paths {
		if e, ok := known[strings.TrimSuffix(p, "/")]; ok {
			found = append(found, e)
		}
	}
	c.json(http.StatusOK, found)
}

func pathsAsked(r *http.Request) ([]string, error) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/json" {
		var body struct {
			Paths []string `json:"paths"`
		}
		err := json.NewDecoder(r.Body).Decode(&body)
		return body.Paths, err
	}
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	return r.PostForm["paths"], nil
}

// isTrue reads a boolean of a query or form: Python's clients send "True".
func isTrue(s string) bool {
	v, err := strconv.ParseBool(s)
	return err == nil && v
}
