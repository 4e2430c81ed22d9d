package hubapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Library is what a Handler serves. Its errors match fetcher's sentinels
// (ErrNotFound, ErrRevisionNotFound, ErrGated, ErrBadToken, ErrForbidden) and types
// (RateLimitedError, UnreachableError) where they apply; any other is told to the
// client as a failure of this server. Implementations are safe for concurrent use.
type Library interface {
	// Manifest returns what ref names in repo now, for who.
	Manifest(ctx context.Context, who Caller, repo fetcher.Repo, ref fetcher.Ref) (*fetcher.Manifest, error)
	// Refs returns the branches and tags that repo is known by here, for who.
	Refs(ctx context.Context, who Caller, repo fetcher.Repo) (map[string]fetcher.Commit, error)
	// Open returns the verified bytes of a file of rev, for who. The error matches
	// fs.ErrNotExist if they are not cached, or not this caller's to have.
	Open(ctx context.Context, who Caller, rev fetcher.Revision, f fetcher.File) (io.ReadSeekCloser, error)
}

// Cached returns a Library of everything in s, whoever asks: for the demo and the
// tests, where there is one user.
func Cached(s *store.Store) Library { return cached{s} }

type cached struct{ store *store.Store }

func (c cached) Manifest(_ context.Context, _ Caller, repo fetcher.Repo, ref fetcher.Ref) (*fetcher.Manifest, error) {
	record, err := c.store.Repo(repo)
	if err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", repo, err)
	}
	commit, pinned := ref.Commit()
	if !pinned {
		commit = record.Refs[ref.String()].Commit
	}
	if !commit.IsZero() {
		m, err := c.store.Manifest(store.Origin{Repo: repo, ID: record.ID}, commit)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return m, err
		}
	}
	if len(record.Refs) == 0 {
		return nil, fmt.Errorf("%s is not cached here: %w", repo, fetcher.ErrNotFound)
	}
	return nil, fmt.Errorf("%s at %s is not cached here: %w", repo, ref, fetcher.ErrRevisionNotFound)
}

func (c cached) Refs(_ context.Context, _ Caller, repo fetcher.Repo) (map[string]fetcher.Commit, error) {
	record, err := c.store.Repo(repo)
	if err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", repo, err)
	}
	if len(record.Refs) == 0 {
		return nil, fmt.Errorf("%s is not cached here: %w", repo, fetcher.ErrNotFound)
	}
	refs := make(map[string]fetcher.Commit, len(record.Refs))
	for name, r := range record.Refs {
		refs[name] = r.Commit
	}
	return refs, nil
}

func (c cached) Open(_ context.Context, _ Caller, rev fetcher.Revision, f fetcher.File) (io.ReadSeekCloser, error) {
	file, err := c.store.OpenBlob(f.Digest)
	if err != nil {
		return nil, fmt.Errorf("open %s of %s: %w", f.Path, rev, err)
	}
	return file, nil
}
