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
// and follows Link rel="next" at the same host.
func (c *Client) Manifest(ctx context.Context, rev fetcher.Revision, cred fetcher.Secret) (*fetcher.Manifest, error) {
	q := request{
		what: fmt.Sprintf("list the files of %s", rev),
		url:  c.apiURL(rev.Repo, "tree", rev.Commit.String()), cred: cred,
	}
	q.url.RawQuery = "recursive=true&expand=false"
	var files []fetcher.File
	seen := map[string]bool{}
	budget := c.maxAnswer
	for {
		seen[q.url.String()] = true
		var page []json.RawMessage
		a, err := c.askJSON(ctx, q, &budget, &page)
		if err != nil {
			return nil, err
		}
		found, err := parseTree(page)
		if page == nil {
			err = errors.New("null instead of a list")
		}
		if err == nil {
			files = append(files, found...)
			q.url, err = c.nextPage(a)
		}
		if err == nil && q.url != nil && (len(seen) == maxPages || seen[q.url.String()]) {
			err = fmt.Errorf("the listing does not end (page %d)", len(seen))
		}
		if err != nil {
			return nil, malformed(q, err)
		}
		if q.url == nil {
			break
		}
	}
	m, err := fetcher.NewManifest(rev, Name, files)
	if err != nil {
		return nil, malformed(q, err)
	}
	return m, nil
}

// parseTree reads the files of one page. Entries of another type (directories,
// and the empty ones that some servers list) are skipped.
func parseTree(page []json.RawMessage) ([]fetcher.File, error) {
	var files []fetcher.File
	for _, text := range page {
		var e entry
		var kind struct {
			Type any `json:"type"`
		}
		if json.Unmarshal(text, &kind) != nil || kind.Type != "file" {
			continue
		}
		if err := json.Unmarshal(text, &e); err != nil {
			return nil, fmt.Errorf("an entry of the tree: %w", err)
		}
		f, err := e.file()
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
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

// nextPage returns the URL of Link rel="next", or nil if this page is the last.
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
	if next.Scheme+"://"+next.Host == DefaultEndpoint && !c.home(next) {
		again := *a.url
		again.RawQuery = next.RawQuery
		next = &again
	}
	if !c.home(next) || next.User != nil {
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
