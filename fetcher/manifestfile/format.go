package manifestfile

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	kjson "sigs.k8s.io/json"

	"github.com/ballast-csi/ballast/fetcher"
)

// version is that of the format.
const version = 1

// maxBytes bounds a file: some 200,000 files of a Manifest.
const maxBytes = 64 << 20

// head is what a file says beside its listing.
type head struct {
	Version int            `json:"version"`
	Repo    fetcher.Repo   `json:"repo"`
	Commit  fetcher.Commit `json:"commit"`
	Refs    []fetcher.Ref  `json:"refs"` // branches and tags that name Commit; it answers for the commit too
	// Who said so and when, for people.
	Authority string    `json:"authority"`
	Made      time.Time `json:"made"`
}

// document is a file.
type document struct {
	head
	Files []fetcher.File `json:"files"`
}

// Write writes m as a manifest file that answers for ref, one line for each of its files.
func Write(w io.Writer, ref fetcher.Ref, m *fetcher.Manifest) error {
	if err := m.Check(); err != nil {
		return err
	}
	h := head{version, m.Revision.Repo, m.Revision.Commit, []fetcher.Ref{}, m.Authority, time.Now().UTC().Truncate(time.Second)}
	if _, pinned := ref.Commit(); !pinned {
		h.Refs = append(h.Refs, ref)
	}
	text, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return err
	}
	b := bufio.NewWriter(w) // keeps the first error, which Flush returns
	b.Write(text[:len(text)-len("\n}")])
	b.WriteString(",\n  \"files\": [")
	for i, f := range m.Files {
		if i > 0 {
			b.WriteByte(',')
		}
		line, err := json.Marshal(f)
		if err != nil {
			return err
		}
		b.WriteString("\n    ")
		b.Write(line)
	}
	b.WriteString("\n  ]\n}\n")
	return b.Flush()
}

// parse reads what Write wrote. authority is who says so now.
func parse(text []byte, authority string) (head, *fetcher.Manifest, error) {
	var d document
	strict, err := kjson.UnmarshalStrict(text, &d)
	switch {
	case d.Version != version && (err == nil || d.Version != 0):
		return d.head, nil, fmt.Errorf("version %d: this Ballast reads version %d", d.Version, version)
	case err != nil:
		return d.head, nil, err
	case len(strict) > 0:
		return d.head, nil, oneOf(strict)
	case d.Repo.IsZero() || d.Commit.IsZero() || d.Files == nil:
		return d.head, nil, errors.New("repo, commit or files is missing")
	}
	for _, ref := range d.Refs {
		if _, pinned := ref.Commit(); pinned || ref.IsZero() {
			return d.head, nil, fmt.Errorf("refs: %q is no branch or tag", ref)
		}
	}
	m, err := fetcher.NewManifest(fetcher.Revision{Repo: d.Repo, Commit: d.Commit}, authority, d.Files)
	return d.head, m, err
}

// oneOf is the first of errs, and that it is not the only one: an event has room for no
// hundred of them.
func oneOf(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return fmt.Errorf("%w, and more like it", errs[0])
}

// repoOf reads which Repo a file that cannot be read whole is about, if it says that.
func repoOf(text []byte) (repo fetcher.Repo) {
	var said struct {
		Repo string `json:"repo"`
	}
	_ = json.Unmarshal(text, &said)
	repo, _ = fetcher.ParseRepo(said.Repo)
	return repo
}

// sum tells two listings apart.
type sum [sha256.Size]byte

func sumOf(m *fetcher.Manifest) (s sum) {
	h := sha256.New()
	for _, f := range m.Files {
		fmt.Fprintf(h, "%s\x00%d\x00%s\n", f.Path.String(), f.Size, f.Digest)
	}
	return sum(h.Sum(nil))
}
