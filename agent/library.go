package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// What follows serves what is here to whom it is due, by the same authorise as Acquire.
// Nothing is fetched but answers of an Authority. Errors name the repository, and match
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
// whom it is open as to everybody, those that everybody was shown; by a local Authority,
// those that the Hub does not contradict.
func (a *Agent) Refs(ctx context.Context, who Caller, repo fetcher.Repo) (map[string]fetcher.Commit, error) {
	g, err := a.readable(ctx, who, repo)
	if err != nil {
		return nil, a.check(err)
	}
	rec, err := a.store.RepoBy(repo, g.origin.Authority)
	if err == nil && rec.ID != g.origin.ID {
		err = fmt.Errorf("refs of %s: %w", repo, store.ErrReplaced)
	}
	if err != nil {
		return nil, err
	}
	all := g.opened || a.access.proved(who.Token, g.origin, true)
	refs := make(map[string]fetcher.Commit, len(rec.Refs))
	for name, r := range rec.Refs {
		listed := rec.Listed[r.Commit.String()]
		if (all || rec.IsShown(r.Commit)) && a.isDisputed(g.origin, r.Commit, listed, listed.Listing) == nil {
			refs[name] = r.Commit
		}
	}
	return refs, nil
}

// readable authorises who for repo as a whole, by a Ref that is on record: by another if
// that is gone, at last by main.
func (a *Agent) readable(ctx context.Context, who Caller, repo fetcher.Repo) (g grant, err error) {
	known, err := a.knownRefs(who, repo)
	if err != nil {
		return g, err
	}
	latest := func(x, y string) int { return known[y].ResolvedAt.Compare(known[x].ResolvedAt) }
	names := slices.SortedFunc(maps.Keys(known), latest)
	names = names[:min(len(names), triedRefs)]
	if !slices.Contains(names, "main") {
		names = append(names, "main")
	}
	for _, name := range names {
		ref, err := fetcher.ParseRef(name)
		if err != nil {
			return g, err
		}
		if g, err = a.authorise(ctx, query{who, repo, ref}, hit); !errors.Is(err, fetcher.ErrRevisionNotFound) {
			return g, err
		}
	}
	return g, fmt.Errorf("refs of %s: none that is known here is left: %w", repo, fetcher.ErrRevisionNotFound)
}

// knownRefs are those on record of all Authorities that repo may be asked of for who.
func (a *Agent) knownRefs(who Caller, repo fetcher.Repo) (map[string]store.RefRecord, error) {
	known := map[string]store.RefRecord{}
	add := func(authority string) error {
		rec, err := a.store.RepoBy(repo, authority)
		maps.Copy(known, rec.Refs)
		return err
	}
	bound := a.boundTo(repo)
	var errs []error
	for _, l := range a.cfg.Authorities {
		if (bound == "" || bound == l.Name()) && a.opened(who.Pod, repo, l.Name()) {
			errs = append(errs, add(l.Name()))
		}
	}
	if !a.offHub(repo) {
		errs = append(errs, add(""))
	}
	return known, errors.Join(errs...)
}

// triedRefs bounds the questions of one request: a Repo's owner makes as many Refs as he
// likes, and removes them.
const triedRefs = 4
