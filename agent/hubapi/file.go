package hubapi

import (
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// file answers with a file's verified bytes, or the Range asked for.
func (c *call) file(m *fetcher.Manifest) {
	rev, p := m.Revision, c.to.path
	f, ok := find(m, p.String())
	if !ok {
		c.fail(&badName{codeEntry, fmt.Errorf("%s has no file %s", rev, p)})
		return
	}
	content, err := c.lib.Open(c.r.Context(), c.who, rev, f)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.fail(&badName{codeNotCached, fmt.Errorf("%s of %s is not cached on this node", p, rev)})
		return
	case err != nil:
		c.fail(err)
		return
	}
	defer content.Close()
	// Many ranges make an answer larger than the file. No client of the Hub's sends two.
	if strings.Contains(strings.Join(c.r.Header.Values("Range"), ","), ",") {
		c.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", f.Size))
		c.refuse(answer{http.StatusRequestedRangeNotSatisfiable, "", "one range at a time is served here"})
		return
	}
	fileHeaders(c.w.Header(), f)
	c.within(f.Size)
	http.ServeContent(c.w, c.r, "", time.Time{}, content)
}

// fileHeaders says what a client asks about f's bytes before it reads them.
func fileHeaders(head http.Header, f fetcher.File) {
	head.Set("ETag", `"`+f.Digest.Hex()+`"`)
	head.Set("Content-Type", "text/plain; charset=utf-8")
	if f.Digest.Algorithm() == fetcher.SHA256 {
		head.Set("X-Linked-Etag", `"`+f.Digest.Hex()+`"`)
		head.Set("X-Linked-Size", strconv.FormatInt(f.Size, 10))
		head.Set("Content-Type", "application/octet-stream")
	}
	name := path.Base(f.Path.String())
	head.Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": name}))
	// The file may be anything, a page with scripts too: no browser runs it.
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "default-src 'none'; sandbox")
}
