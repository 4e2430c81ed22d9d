package agent

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// What follows serves what is here to whom it is due, by the same authorise as Acquire.
// Nothing is fetched but answers of the Authority. Errors name the repository, and match
// fetcher's sentinels.

// Listing returns what ref names in repo, whole, if who may read repo.
func (a *Agent) Listing(ctx context.Context, who Caller, repo fetcher.Repo, ref fetcher.Ref) (*fetcher.Manifest, error) {
	g, err := a.authorise(ctx, query{who, repo, ref}, listing)
	if err != nil {
		return nil, a.check(err)
	}
	return g.manifest, nil
}

// OpenFile opens the verified bytes of a file that Listing listed. The error matches
// fs.ErrNotExist if they are not here, or are here but not by who's right (mayUse).
func (a *Agent) OpenFile(ctx context.Context, who Caller, rev fetcher.Revision, f fetcher.File) (*os.File, error) {
	g, err := a.authorise(ctx, query{who, rev.Repo, rev.Commit.Ref()}, hit)
	if err != nil {
		return nil, a.check(err)
	}
	if may, err := a.access.mayUse(f.Digest, g.origin); err != nil {
		return nil, err
	} else if !may {
		return nil, fmt.Errorf("open %s of %s: %w", f.Path, rev, fs.ErrNotExist)
	}
	return a.store.OpenBlob(f.Digest)
}

// Refs returns the branches and tags of repo that are on record, if who may read repo: to
// whom it is open as to everybody, those that everybody was shown.
func (a *Agent) Refs(ctx context.Context, who Caller, repo fetcher.Repo) (map[string]fetcher.Commit, error) {
	ref, err := a.aRef(repo)
	if err != nil {
		return nil, err
	}
	g, err := a.authorise(ctx, query{who, repo, ref}, hit)
	if err != nil {
		return nil, a.check(err)
	}
	rec, err := a.store.Repo(repo)
	if err == nil && rec.ID != g.origin.ID {
		err = fmt.Errorf("refs of %s: %w", repo, store.ErrReplaced)
	}
	if err != nil {
		return nil, err
	}
	all := g.opened || a.access.proved(who.Token, g.origin, true)
	refs := make(map[string]fetcher.Commit, len(rec.Refs))
	for name, r := range rec.Refs {
		if all || rec.IsShown(r.Commit) {
			refs[name] = r.Commit
		}
	}
	return refs, nil
}

// aRef chooses the Ref by which to ask about repo as a whole.
func (a *Agent) aRef(repo fetcher.Repo) (fetcher.Ref, error) {
	rec, err := a.store.Repo(repo)
	if err != nil {
		return fetcher.Ref{}, err
	}
	name := "main"
	if _, ok := rec.Refs[name]; !ok && len(rec.Refs) > 0 {
		name = slices.Min(slices.Collect(maps.Keys(rec.Refs)))
	}
	return fetcher.ParseRef(name)
}
