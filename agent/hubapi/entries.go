package hubapi

import (
	"fmt"
	"iter"
	"sort"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

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

// place is where an entry stands in a listing: a directory just before what is in it.
// Files are in order of place too, so a listing goes on from any place without a look
// at what comes before: a page of a million files costs what a page of ten does.
func (e entry) place() string {
	if e.Type == "directory" {
		return e.Path + "/"
	}
	return e.Path
}

// firstFrom is the index of m's first file whose path is not below place.
func firstFrom(m *fetcher.Manifest, place string) int {
	return sort.Search(len(m.Files), func(i int) bool { return m.Files[i].Path.String() >= place })
}

// find returns the file of m at a path.
func find(m *fetcher.Manifest, path string) (fetcher.File, bool) {
	i := firstFrom(m, path)
	if i == len(m.Files) || m.Files[i].Path.String() != path {
		return fetcher.File{}, false
	}
	return m.Files[i], true
}

// hasDir says whether m has files below a directory.
func hasDir(m *fetcher.Manifest, dir string) bool {
	i := firstFrom(m, dir+"/")
	return i < len(m.Files) && strings.HasPrefix(m.Files[i].Path.String(), dir+"/")
}

// entries lists the files and directories of m directly in dir ("" is the root), or
// all below it, that stand beyond the place after.
func entries(m *fetcher.Manifest, dir string, recursive bool, after string) iter.Seq[entry] {
	prefix := ""
	if dir != "" {
		prefix = dir + "/"
	}
	return func(yield func(entry) bool) {
		last := after // what stands no further has been listed
		list := func(e entry) bool {
			last = e.place()
			return yield(e)
		}
		for i := firstFrom(m, max(prefix, after)); i < len(m.Files); i++ {
			path := m.Files[i].Path.String()
			if !strings.HasPrefix(path, prefix) {
				return
			}
			if first, _, deep := strings.Cut(path[len(prefix):], "/"); deep && !recursive {
				dir := prefix + first
				if dir+"/" > last && !list(dirEntry(m.Revision, dir)) {
					return
				}
				i = firstFrom(m, dir+"0") - 1 // "0" follows "/": past all that is in it
				continue
			}
			for at := max(len(prefix), common(last, path)); at < len(path); at++ {
				if path[at] == '/' && !list(dirEntry(m.Revision, path[:at])) {
					return
				}
			}
			if path > last && !list(fileEntry(m.Files[i])) {
				return
			}
		}
	}
}

// common is how many bytes two strings begin with alike. The directories of a path that
// end within what it has in common with the place before have been listed.
func common(a, b string) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
