package fetcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Path is a file's path inside a repository: relative, slash-separated, safe to
// join below any directory. The zero Path names nothing.
type Path struct{ s string }

// Limits on a Path, in bytes: Linux's NAME_MAX for a component, and a total that
// leaves room for the cache directory before PATH_MAX (4096). And one on its parts: a
// short list must not make a great many directories, and whoever walks a tree holds a
// file descriptor a level.
const (
	maxPath      = 3072
	maxComponent = 255
	maxParts     = 64
)

// ParsePath reads a path as the Hub lists it. It refuses what could leave the
// directory it is joined to or name something else there: absolute paths, empty,
// "." and ".." components, NUL and other control characters, text that is not
// UTF-8, components longer than 255 bytes or that are ".git" to some file system, and
// more than 64 components. Names that only look alike (by case, by Unicode's forms, by
// what cannot be seen) are distinct, as they are on Linux.
func ParsePath(s string) (Path, error) {
	bad := ""
	switch {
	case s == "" || len(s) > maxPath:
		bad = fmt.Sprintf("must have 1 to %d bytes", maxPath)
	case !utf8.ValidString(s):
		bad = "is not UTF-8"
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		bad = "has a control character"
	}
	parts := strings.Split(s, "/")
	if len(parts) > maxParts {
		bad = fmt.Sprintf("has %d parts, more than %d", len(parts), maxParts)
	}
	for _, part := range parts {
		switch {
		case part == "" || part == "." || part == "..":
			bad = "must be relative, without empty, \".\" or \"..\" parts"
		case len(part) > maxComponent:
			bad = fmt.Sprintf("has a part longer than %d bytes", maxComponent)
		case isDotGit(part):
			bad = "has a part named .git, or what is that to another system"
		}
	}
	if bad != "" {
		return Path{}, fmt.Errorf("file path %q %s", s[:min(len(s), maxComponent)], bad)
	}
	return Path{s}, nil
}

// isDotGit reports whether name is ".git" on any file system that a snapshot may be
// copied to: git runs what the configuration there says. These are the names that git
// itself refuses (core.protectNTFS, core.protectHFS): in any case, NTFS's short name,
// with what NTFS drops at the end or takes for a stream, with what HFS+ ignores.
func isDotGit(name string) bool {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name)
	name, _, _ = strings.Cut(name, ":")
	name = strings.TrimRight(name, " .")
	return strings.EqualFold(name, ".git") || strings.EqualFold(name, "git~1")
}

// String returns the path as the Hub lists it.
func (p Path) String() string { return p.s }

// Format writes the path for people, whatever the verb: quoted if it has characters
// that cannot be seen or that turn the text around. A stranger chose the name, and it
// is shown in errors, events and logs.
func (p Path) Format(f fmt.State, verb rune) {
	s := p.s
	if verb == 'q' || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	fmt.Fprintf(f, fmt.FormatString(f, 's'), s)
}

// IsZero reports whether p names nothing.
func (p Path) IsZero() bool { return p.s == "" }

// MarshalText returns the path.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.s), nil }

// UnmarshalText reads what ParsePath reads.
func (p *Path) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePath(string(b))
	return err
}

// File is one entry of a Manifest.
type File struct {
	Path   Path   `json:"path"`
	Size   int64  `json:"size"` // bytes
	Digest Digest `json:"digest"`
	// OID is the git object name that the Hub lists, in hex: the Digest's sum
	// for a file kept in git, that of the LFS pointer otherwise. Hub caches
	// record it (trees/<commit>.json, "blob_id"). It proves nothing.
	OID string `json:"oid,omitempty"`
	// XetHash is the file's Xet hash, 64 hex digits, where the Hub tells it.
	XetHash string `json:"xetHash,omitempty"`
}

// Manifest is the complete list of a Revision's files, in order of path, and the
// Authority that said so.
type Manifest struct {
	Revision  Revision `json:"revision"`
	Authority string   `json:"authority"`
	Files     []File   `json:"files"`
}

// NewManifest sorts files and checks what no single entry shows: no path twice,
// none that is both a file and a directory, sizes that make sense, one size a
// Digest.
func NewManifest(rev Revision, authority string, files []File) (*Manifest, error) {
	m := &Manifest{rev, authority, slices.Clone(files)}
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Path.s, b.Path.s) })
	return m, m.Check()
}

// Limits on a Manifest. What is made of one, in memory and on disk, grows with the
// number of its files and directories.
const (
	// maxFileSize bounds a file's size in bytes: 64 TiB.
	maxFileSize = 1 << 46
	// MaxFiles bounds the files of a Manifest.
	MaxFiles = 1_000_000
	// MaxDirectories bounds the directories they are in: each costs a block of the disk
	// and an inode, in every View.
	MaxDirectories = 100_000
)

// Check reports what is wrong with m, if anything: the rules of NewManifest, no
// zero value anywhere, no file of more than 64 TiB, no more than MaxFiles files
// and MaxDirectories directories.
func (m *Manifest) Check() error {
	if m.Revision.Repo.IsZero() || m.Revision.Commit.IsZero() || m.Authority == "" {
		return errors.New("manifest without a revision or an authority")
	}
	if len(m.Files) > MaxFiles {
		return fmt.Errorf("manifest of %s: %d files are more than %d", m.Revision, len(m.Files), MaxFiles)
	}
	sizes := map[Digest]int64{}
	var total int64
	for i, f := range m.Files {
		size, known := sizes[f.Digest]
		switch {
		case f.Path.IsZero() || f.Digest.IsZero():
			return fmt.Errorf("manifest of %s: entry %d without a path or a digest", m.Revision, i)
		case f.Size < 0 || total+f.Size < total:
			return fmt.Errorf("manifest of %s: %s: size %d bytes is not possible", m.Revision, f.Path, f.Size)
		case f.Size > maxFileSize:
			return fmt.Errorf("manifest of %s: %s: a size of %d bytes is more than %d", m.Revision, f.Path, f.Size, int64(maxFileSize))
		case i > 0 && m.Files[i-1].Path.s >= f.Path.s:
			return fmt.Errorf("manifest of %s: %s is listed twice or out of order", m.Revision, f.Path)
		case known && size != f.Size:
			return fmt.Errorf("manifest of %s: %s: %s listed with sizes %d and %d bytes", m.Revision, f.Path, f.Digest, size, f.Size)
		}
		total += f.Size
		sizes[f.Digest] = f.Size
	}
	return m.checkDirectories()
}

// checkDirectories relies on the order of Files: all that is below one directory
// stands together.
func (m *Manifest) checkDirectories() error {
	directories, last := 0, ""
	for i, f := range m.Files {
		same := 0
		for same < len(last) && same < len(f.Path.s) && last[same] == f.Path.s[same] {
			same++
		}
		directories += strings.Count(f.Path.s[same:], "/")
		last = f.Path.s
		below := f.Path.s + "/"
		j, _ := slices.BinarySearchFunc(m.Files[i+1:], below, func(f File, s string) int { return strings.Compare(f.Path.s, s) })
		if j += i + 1; j < len(m.Files) && strings.HasPrefix(m.Files[j].Path.s, below) {
			return fmt.Errorf("manifest of %s: %s is both a file and a directory", m.Revision, f.Path)
		}
	}
	if directories > MaxDirectories {
		return fmt.Errorf("manifest of %s: %d directories are more than %d", m.Revision, directories, MaxDirectories)
	}
	return nil
}

// Select returns m with only the files that keep lets through. It ends with ctx: the
// worst Filter takes some 50 ms for the longest path, and there may be MaxFiles.
func (m *Manifest) Select(ctx context.Context, keep Filter) (*Manifest, error) {
	sel := &Manifest{Revision: m.Revision, Authority: m.Authority}
	match := keep.Matcher()
	for _, f := range m.Files {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("select files of %s: %w", m.Revision, context.Cause(ctx))
		}
		if match(f.Path) {
			sel.Files = append(sel.Files, f)
		}
	}
	return sel, nil
}

// Bytes returns the sum of the files' sizes, each Digest counted once.
func (m *Manifest) Bytes() int64 {
	var sum int64
	seen := map[Digest]bool{}
	for _, f := range m.Files {
		if !seen[f.Digest] {
			seen[f.Digest] = true
			sum += f.Size
		}
	}
	return sum
}
