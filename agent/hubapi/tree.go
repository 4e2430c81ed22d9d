package hubapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// maxPage is the Hub's own limit on the entries of one page of a tree.
const maxPage = 1000

// maxForm and maxPaths bound a paths-info request: its body, in bytes, and what it asks.
const (
	maxForm  = 1 << 20
	maxPaths = 10_000
)

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
	if !dir.IsZero() && !hasDir(m, dir.String()) {
		c.fail(&badName{codeEntry, fmt.Errorf("%s has no directory %s", m.Revision, dir)})
		return
	}
	page := []entry{}
	for e := range entries(m, dir.String(), isTrue(query.Get("recursive")), string(after)) {
		if len(page) == limit {
			query.Set("cursor", base64.RawURLEncoding.EncodeToString([]byte(page[limit-1].place())))
			c.linkNext(query)
			break
		}
		page = append(page, e)
	}
	c.json(http.StatusOK, page)
}

// linkNext tells where the next page is, as a whole URL: huggingface_hub asks for it by
// the link as it is (utils/_pagination.py). Nobody is let in through a proxy, so the
// client asked by the Host it knows.
func (c *call) linkNext(query url.Values) {
	next := *c.r.URL
	next.Scheme, next.Host, next.RawQuery = "http", c.r.Host, query.Encode()
	if c.r.TLS != nil {
		next.Scheme = "https"
	}
	c.w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
}

// pathsInfo answers what is known of each path asked for; unknown ones are left out,
// as on the Hub.
func (c *call) pathsInfo(m *fetcher.Manifest, paths []string) {
	found, seen := []entry{}, map[string]bool{}
	for _, p := range paths {
		p = strings.TrimSuffix(p, "/")
		if seen[p] {
			continue
		}
		seen[p] = true
		if f, ok := find(m, p); ok {
			found = append(found, fileEntry(f))
		} else if hasDir(m, p) {
			found = append(found, dirEntry(m.Revision, p))
		}
	}
	c.json(http.StatusOK, found)
}

// pathsAsked reads the body of a paths-info request, the only one that is read.
func (c *call) pathsAsked() ([]string, error) {
	text, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxForm))
	if err != nil {
		return nil, err
	}
	c.hearUntil(time.Time{}) // or the request would end with that, while the Hub is asked
	var paths []string
	if kind, _, _ := mime.ParseMediaType(c.r.Header.Get("Content-Type")); kind == "application/json" {
		var body struct {
			Paths []string `json:"paths"`
		}
		err = json.Unmarshal(text, &body)
		paths = body.Paths
	} else {
		var form url.Values
		form, err = url.ParseQuery(string(text))
		paths = form["paths"]
	}
	if err == nil && len(paths) > maxPaths {
		err = fmt.Errorf("%d paths: ask for at most %d at a time", len(paths), maxPaths)
	}
	return paths, err
}

// isTrue reads a boolean of a query or form: Python's clients send "True".
func isTrue(s string) bool {
	v, err := strconv.ParseBool(s)
	return err == nil && v
}
