package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// entry is one line of the Hub's tree. An LFS entry's oid names the pointer that
// git holds; its lfs.oid is the content's SHA-256.
type entry struct {
	Type string `json:"type"`
	Path string `json:"path"`
	OID  string `json:"oid"`
	Size int64  `json:"size"` // bytes
	LFS  *struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"` // bytes
	} `json:"lfs"`
	XetHash string `json:"xetHash"`
}

// Manifest asks GET /api/{models|datasets}/{repo}/tree/{commit}?recursive=true
// and follows Link rel="next" at the same host. Its pages are read entry by entry, of
// which no more are taken than a Manifest may hold files.
func (c *Client) Manifest(ctx context.Context, rev fetcher.Revision, cred fetcher.Secret) (*fetcher.Manifest, error) {
	q := request{
		what: fmt.Sprintf("list the files of %s", rev),
		url:  c.apiURL(rev.Repo, "tree", rev.Commit.String()), cred: cred, absent: errNoRevision,
	}
	q.url.RawQuery = "recursive=true&expand=false"
	list := listing{left: c.maxEntries}
	seen := map[string]bool{}
	budget := c.maxAnswer
	for q.url != nil {
		seen[q.url.String()] = true
		a, err := c.askJSON(ctx, q, &budget, list.page)
		if err != nil {
			return nil, err
		}
		next, err := c.nextPage(a)
		if err == nil && next != nil && (len(seen) == maxPages || seen[next.String()]) {
			err = fmt.Errorf("the listing does not end (page %d)", len(seen))
		}
		if err != nil {
			return nil, malformed(q, err)
		}
		q.url = next
	}
	m, err := fetcher.NewManifest(rev, Name, list.files)
	if err != nil {
		return nil, malformed(q, err)
	}
	return m, nil
}

// listing collects the files of all pages.
type listing struct {
	files []fetcher.File
	left  int // entries that may still come, files or not
}

// page reads one page, entry by entry. Entries of another type than file
// (directories, and the empty ones that some servers list) are skipped.
func (l *listing) page(d *document) error {
	if err := d.open('['); err != nil {
		return err
	}
	for d.more() {
		if l.left--; l.left < 0 {
			return errors.New("it has more entries than any that makes sense")
		}
		text, err := d.value()
		if err != nil {
			return err
		}
		f, ok, err := parseEntry(text)
		if err != nil {
			return err
		}
		if ok {
			l.files = append(l.files, f)
		}
	}
	_, err := d.token() // the end
	return err
}

// parseEntry reads one entry; ok is false if it is no file.
func parseEntry(text json.RawMessage) (f fetcher.File, ok bool, err error) {
	if len(text) == 0 || text[0] != '{' {
		return f, false, fmt.Errorf("an entry of the tree is no object: %.20q", text)
	}
	var kind struct {
		Type any `json:"type"`
	}
	if json.Unmarshal(text, &kind) != nil || kind.Type != "file" {
		return f, false, nil
	}
	var e entry
	if err := json.Unmarshal(text, &e); err != nil {
		return f, false, fmt.Errorf("an entry of the tree: %w", err)
	}
	f, err = e.file()
	return f, err == nil, err
}

var xetHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (e entry) file() (fetcher.File, error) {
	path, err := fetcher.ParsePath(e.Path)
	if err != nil {
		return fetcher.File{}, err
	}
	f := fetcher.File{Path: path, Size: e.Size, OID: e.OID}
	if e.LFS != nil {
		f.Digest, err = fetcher.NewDigest(fetcher.SHA256, e.LFS.OID)
		if e.LFS.Size != e.Size {
			err = errors.Join(err, fmt.Errorf("size is %d bytes and %d in LFS", e.Size, e.LFS.Size))
		}
	} else {
		f.Digest, err = fetcher.NewDigest(fetcher.GitBlobSHA1, e.OID)
	}
	if err == nil && e.Size < 0 {
		err = fmt.Errorf("size is %d bytes", e.Size)
	}
	if err != nil {
		return fetcher.File{}, fmt.Errorf("%s: %w", path, err)
	}
	if xetHash.MatchString(e.XetHash) { // asterisks for who may not read a gated repository
		f.XetHash = e.XetHash
	}
	return f, nil
}

// nextPage returns the URL of Link rel="next", or nil if this page is the last. It
// is always one of the endpoint's own origin. A Hub behind a proxy that ends TLS
// names itself by another scheme or port: then path and query are what is meant.
// Behind a mirror that passes the public Hub's links on, the page is asked of the
// mirror.
func (c *Client) nextPage(a *answer) (*url.URL, error) {
	link := nextLink(a.Header.Values("Link"))
	if link == "" {
		return nil, nil
	}
	next, err := a.url.Parse(link)
	if err != nil {
		return nil, errors.New("the next page is no URL")
	}
	web := next.User == nil && (next.Scheme == "http" || next.Scheme == "https")
	switch {
	case web && strings.EqualFold(next.Hostname(), c.endpoint.Hostname()):
		next.Scheme, next.Host = c.endpoint.Scheme, c.endpoint.Host
	case web && next.Scheme+"://"+next.Host == DefaultEndpoint:
		again := *a.url
		again.RawQuery = next.RawQuery
		next = &again
	default:
		return nil, fmt.Errorf("the next page is at another host, %.100q", next.Host)
	}
	next.Fragment = ""
	return next, nil
}

// nextLink finds rel="next" in Link headers (RFC 8288).
func nextLink(headers []string) string {
	for _, h := range headers {
		for h != "" {
			_, rest, ok := strings.Cut(h, "<")
			if !ok {
				break
			}
			target, after, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			params, more, _ := strings.Cut(after, "<")
			if relNext.MatchString(params) {
				return target
			}
			if h = ""; more != "" {
				h = "<" + more
			}
		}
	}
	return ""
}

var relNext = regexp.MustCompile(`(?i);\s*rel\s*=\s*("([^"]*\s)?next(\s[^"]*)?"|next\b)`)
