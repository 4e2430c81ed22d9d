package hubtest

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// urlLifetime is how long a signed CDN URL says it is good for; ExpireURLs ends
// it sooner.
const urlLifetime = time.Hour

// resolve answers /{repo}/resolve/{rev}/{path}.
func (c *call) resolve() {
	prefix, escaped := "", strings.TrimPrefix(c.r.URL.EscapedPath(), "/")
	if rest, ok := strings.CutPrefix(escaped, "datasets/"); ok {
		prefix, escaped = "datasets/", rest
	}
	t, ok := parseTarget(prefix, escaped, "resolve")
	if !ok || t.verb == "" || t.path == "" {
		c.fail(http.StatusNotFound, "", "Sorry, we can't find the page you are looking for.")
		return
	}
	c.file(t, true)
}

// resolveCache answers below /api/resolve-cache/, where regular files may be
// redirected to: {models|datasets}/{repo}/{commit}/{path}.
func (c *call) resolveCache(rest string) {
	parts := strings.SplitN(rest, "/", 5)
	if len(parts) < 5 {
		c.fail(http.StatusNotFound, "", "not found")
		return
	}
	t := target{repo: parts[1] + "/" + parts[2], rev: parts[3]}
	if parts[0] == "datasets" {
		t.repo = "datasets/" + t.repo
	}
	path, err := url.PathUnescape(parts[4])
	if err != nil {
		c.fail(http.StatusBadRequest, "", err.Error())
		return
	}
	t.path = path
	c.file(t, false)
}

// file answers for one file's content: itself, or where it is.
func (c *call) file(t target, hop bool) {
	commit, tree, ok := c.look(t, true)
	if !ok {
		return
	}
	c.w.Header().Set("X-Repo-Commit", commit)
	f, ok := tree[t.path]
	if !ok {
		c.fail(http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	if f.lfs {
		c.redirect(t, commit, f)
		return
	}
	c.mu.Lock()
	hop = hop && c.cacheHop && strings.Contains(strings.TrimPrefix(t.repo, "datasets/"), "/")
	c.mu.Unlock()
	if hop {
		kind := "models/"
		if strings.HasPrefix(t.repo, "datasets/") {
			kind = ""
		}
		c.w.Header().Set("Location", "/api/resolve-cache/"+kind+t.repo+"/"+commit+"/"+(&url.URL{Path: t.path}).EscapedPath())
		c.w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	c.w.Header().Set("ETag", `"`+f.Digest.Hex()+`"`)
	if strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip") && c.r.Header.Get("Range") == "" {
		c.zipped(f)
		return
	}
	c.deliver(fileKey{t.repo, t.path}, f.data)
}

// zipped answers as the Hub does when asked for a text without saying "identity":
// compressed, without a length.
func (c *call) zipped(f content) {
	c.w.Header().Set("Content-Encoding", "gzip")
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodGet {
		z := gzip.NewWriter(c.w)
		z.Write(f.data)
		z.Close()
		c.served.Add(int64(len(f.data)))
	}
}

// redirect sends the caller of an LFS file to the CDN, with a URL signed for the
// Range of this request, if it has one.
func (c *call) redirect(t target, commit string, f content) {
	kind := "models/"
	if strings.HasPrefix(t.repo, "datasets/") {
		kind = ""
	}
	query := url.Values{"Repo": {t.repo}, "Path": {t.path}, "Commit": {commit}, "Range": {c.r.Header.Get("Range")}}
	query.Set("Expires", strconv.FormatInt(time.Now().Add(urlLifetime).Unix(), 10))
	query.Set("Signature", c.sign(query))
	location := url.URL{Scheme: "http", Host: c.CDNHost(), Path: "/xet-bridge-us/" + f.Digest.Hex(), RawQuery: query.Encode()}
	h := c.w.Header()
	h.Set("X-Linked-Etag", `"`+f.Digest.Hex()+`"`)
	h.Set("X-Linked-Size", strconv.FormatInt(f.Size, 10))
	h.Set("X-Xet-Hash", f.XetHash)
	h.Add("Link", fmt.Sprintf(`<%s/api/%s%s/xet-read-token/%s>; rel="xet-auth"`, c.URL(), kind, t.repo, commit))
	h.Set("Cache-Control", "no-store")
	h.Set("Location", location.String())
	body := "Found. Redirecting to " + location.String()
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(http.StatusFound)
	fmt.Fprint(c.w, body)
}

// sign makes the signature of a CDN URL's query.
func (h *Hub) sign(query url.Values) string {
	h.mu.Lock()
	epoch := h.epoch
	h.mu.Unlock()
	sum := sha256.Sum256(fmt.Appendf(nil, "%p %d %q %q %q %q %q", h, epoch,
		query.Get("Repo"), query.Get("Path"), query.Get("Commit"), query.Get("Range"), query.Get("Expires")))
	return hex.EncodeToString(sum[:])
}

// content answers for the CDN.
func (c *call) content() {
	query := c.r.URL.Query()
	signed := query.Get("Range")
	if query.Get("Signature") != c.sign(query) || signed != "" && signed != c.r.Header.Get("Range") {
		c.w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(c.w, "<Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>")
		return
	}
	key := fileKey{query.Get("Repo"), query.Get("Path")}
	c.mu.Lock()
	var f content
	if r := c.repos[key.repo]; r != nil {
		f = r.commits[query.Get("Commit")][key.path]
	}
	c.mu.Unlock()
	c.w.Header().Set("ETag", `"`+f.OID+`"`)
	c.deliver(key, f.data)
}

// deliver sends data, or the range of it that was asked for.
func (c *call) deliver(key fileKey, data []byte) {
	h := c.w.Header()
	from, to, status := 0, len(data), http.StatusOK
	if spec := c.r.Header.Get("Range"); spec != "" {
		var ok bool
		if from, to, ok = parseRange(spec, len(data)); !ok {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", len(data)))
			c.w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(data)))
	}
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(to-from))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodGet {
		return
	}
	http.NewResponseController(c.w).Flush()
	if c.waitHeld(c.r.Context(), key) != nil {
		panic(http.ErrAbortHandler)
	}
	middle := len(data) / 2
	flip := middle >= from && middle < to && c.takeCorruption(key)
	for from < to {
		n := min(c.chunk(), to-from)
		part := data[from : from+n]
		if flip && middle >= from && middle < from+n {
			part = append([]byte(nil), part...)
			part[middle-from] ^= 0x10
		}
		if c.pace(c.r.Context(), n) != nil {
			panic(http.ErrAbortHandler)
		}
		written, err := c.w.Write(part)
		c.served.Add(int64(written))
		if err != nil {
			return
		}
		from += n
	}
}

// parseRange reads "bytes=a-b", "bytes=a-" or "bytes=-n" into a half-open range.
func parseRange(spec string, size int) (from, to int, ok bool) {
	a, b, found := strings.Cut(strings.TrimPrefix(spec, "bytes="), "-")
	if !found || !strings.HasPrefix(spec, "bytes=") || a == "" && b == "" {
		return 0, 0, false
	}
	if a == "" {
		n, err := strconv.Atoi(b)
		return max(size-n, 0), size, err == nil && n > 0 && size > 0
	}
	from, err := strconv.Atoi(a)
	if err != nil || from < 0 || from >= size {
		return 0, 0, false
	}
	if b == "" {
		return from, size, true
	}
	last, err := strconv.Atoi(b)
	return from, min(last+1, size), err == nil && last >= from
}
