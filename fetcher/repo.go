package fetcher

import (
	"fmt"
	"regexp"
	"strings"
)

// Kind says what a repository holds.
type Kind string

// The kinds of repository that can be mounted.
const (
	Model   Kind = "model"
	Dataset Kind = "dataset"
)

// Repo names a repository on the Hub: a kind and "org/name", or a bare name
// such as "gpt2". Repo is comparable. The zero Repo names nothing.
type Repo struct {
	kind Kind
	name string
}

// maxRepoName is huggingface_hub's limit on the length of a repository id, in
// bytes (utils/_validators.py, validate_repo_id).
const maxRepoName = 96

var repoPart = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)

// ParseRepo reads "org/name", "name", "models/org/name", "datasets/org/name" or
// "datasets/name". The rules are those of huggingface_hub's validate_repo_id:
// letters, digits, '-', '_' and '.', no "--" and no "..", no '-' or '.' at either
// end of a part, no ".git" ending, at most 96 bytes.
func ParseRepo(s string) (Repo, error) {
	kind, name := Model, s
	switch prefix, rest, _ := strings.Cut(s, "/"); {
	case prefix == "datasets" && rest != "":
		kind, name = Dataset, rest
	case prefix == "models" && strings.Contains(rest, "/"):
		name = rest
	}
	return NewRepo(kind, name)
}

// NewRepo is ParseRepo for a kind and a name already apart.
func NewRepo(kind Kind, name string) (Repo, error) {
	if kind != Model && kind != Dataset {
		return Repo{}, fmt.Errorf("repository kind %q: must be model or dataset", kind)
	}
	parts := strings.Split(name, "/")
	bad := len(name) > maxRepoName || len(parts) > 2 ||
		strings.Contains(name, "--") || strings.Contains(name, "..") || strings.HasSuffix(name, ".git")
	for _, part := range parts {
		bad = bad || !repoPart.MatchString(part)
	}
	// The Hub has no such accounts: they begin the names of other kinds.
	bad = bad || kind == Model && len(parts) == 2 && (parts[0] == "datasets" || parts[0] == "spaces")
	if bad {
		return Repo{}, fmt.Errorf("repository %q: must be org/name or name (datasets/org/name for a data set), "+
			"of letters, digits, '-', '_' and '.', without \"--\" or \"..\", at most %d bytes", name, maxRepoName)
	}
	return Repo{kind, name}, nil
}

// Kind returns what the repository holds.
func (r Repo) Kind() Kind { return r.kind }

// Name returns "org/name" or the bare name, without the kind.
func (r Repo) Name() string { return r.name }

// IsZero reports whether r names nothing.
func (r Repo) IsZero() bool { return r == Repo{} }

// String returns what ParseRepo reads: "org/name", or "datasets/org/name".
func (r Repo) String() string {
	if r.kind == Dataset {
		return "datasets/" + r.name
	}
	return r.name
}

// Flat returns the name as one path component, "org--name". It is unambiguous
// because no name contains "--"; the Hub's cache layout relies on the same.
func (r Repo) Flat() string { return strings.ReplaceAll(r.name, "/", "--") }

// MarshalText returns String.
func (r Repo) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what ParseRepo reads.
func (r *Repo) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRepo(string(b))
	return err
}
