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

// linkNext tells where the next page is.
func (c *call) linkNext(query url.Values) {
	next := *c.r.URL
	next.Scheme, next.Host = origin(c.r)
	next.RawQuery = query.Encode()
	c.w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	c.w.Header().Set("Vary", "X-Forwarded-Proto, X-Forwarded-Host")
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
