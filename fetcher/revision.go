package fetcher

import (
	"fmt"
	"strings"
)

// Commit is a full git commit: 40 lower-case hex digits. The zero Commit names
// nothing.
type Commit struct{ hex string }

// ParseCommit reads 40 hex digits of either case.
func ParseCommit(s string) (Commit, error) {
	if !isHex(strings.ToLower(s), 40) {
		return Commit{}, fmt.Errorf("commit %q: must be 40 hex digits", s)
	}
	return Commit{strings.ToLower(s)}, nil
}

// String returns the 40 hex digits.
func (c Commit) String() string { return c.hex }

// Short returns the first seven digits, for people.
func (c Commit) Short() string { return c.hex[:min(7, len(c.hex))] }

// IsZero reports whether c names nothing.
func (c Commit) IsZero() bool { return c.hex == "" }

// MarshalText returns the 40 hex digits.
func (c Commit) MarshalText() ([]byte, error) { return []byte(c.hex), nil }

// UnmarshalText reads what ParseCommit reads.
func (c *Commit) UnmarshalText(b []byte) (err error) {
	*c, err = ParseCommit(string(b))
	return err
}

// Ref is a branch, a tag, or a full commit. The zero Ref names nothing.
type Ref struct{ name string }

// maxRef bounds a Ref in bytes: it becomes a file name below refs/ in a View.
const maxRef = 255

// ParseRef reads a git reference name by the rules of git-check-ref-format(1),
// one level being enough ("main", "v1.0", "refs/pr/1"), or a full commit.
func ParseRef(s string) (Ref, error) {
	if c, err := ParseCommit(s); err == nil {
		return Ref{c.hex}, nil
	}
	bad := s == "" || len(s) > maxRef || s == "@" ||
		strings.Contains(s, "..") || strings.Contains(s, "@{") || strings.HasSuffix(s, ".") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) || r == '�' })
	for _, part := range strings.Split(s, "/") {
		bad = bad || part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") || strings.HasPrefix(part, "-")
	}
	if bad {
		return Ref{}, fmt.Errorf("revision %q: must be a branch, a tag or a commit of 40 hex digits", s)
	}
	return Ref{s}, nil
}

// String returns the name or the 40 hex digits.
func (r Ref) String() string { return r.name }

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r.name == "" }

// Commit returns the commit that r pins, if r is one.
func (r Ref) Commit() (Commit, bool) {
	if isHex(r.name, 40) {
		return Commit{r.name}, true
	}
	return Commit{}, false
}

// MarshalText returns the name.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.name), nil }

// UnmarshalText reads what ParseRef reads.
func (r *Ref) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRef(string(b))
	return err
}

// Ref returns the Ref that pins c.
func (c Commit) Ref() Ref { return Ref{c.hex} }

// Revision is a Repo at a Commit: immutable, the key of everything downstream.
type Revision struct {
	Repo   Repo   `json:"repo"`
	Commit Commit `json:"commit"`
}

// String returns "org/name@" and the commit's first seven digits, for people.
func (r Revision) String() string { return r.Repo.String() + "@" + r.Commit.Short() }

// isHex reports whether s is n lower-case hex digits.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
