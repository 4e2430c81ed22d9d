package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// inquiry asks an Authority as one credential what a Ref is, what that holds, and to prove
// access to it.
type inquiry struct {
	authority fetcher.Authority
	query     query
	cred      fetcher.Secret
	// origin is on record for the Repo's name. With renews, so is a proof of cred for it:
	// one HEAD is enough to renew it. A first one needs the Authority's word that the name
	// is still that Origin's, or who registers it anew with one commit of it would be let
	// to all of it.
	origin store.Origin
	renews bool
	// node is whose token asks instead of cred, for its rate limit, what was shown to be
	// anybody's to know; nil for nobody's.
	node *nodeToken
}

// showing is what an inquiry was shown, access to content included.
type showing struct {
	manifest *fetcher.Manifest // the one given, if that is still what the Ref is
	repoID   string            // "" if it was not asked for, or not told
	proved   time.Time         // when the question that proves access was asked
}

// ask asks by one HEAD of content when a Manifest is at hand, which proves access and
// resolves the Ref at once; for the Ref and its Manifest first when not.
func (i inquiry) ask(ctx context.Context, m *fetcher.Manifest) (showing, error) {
	if m != nil {
		shown, err := i.anew(ctx, m)
		if !errors.Is(err, fetcher.ErrEntryNotFound) {
			return shown, err
		}
		// The Ref has moved, and the file is gone.
	} else if err := i.visible(ctx); err != nil {
		return showing{}, err
	}
	return i.first(ctx)
}

// visible makes sure, before the node's token asks anything, that anybody may know of the
// Repo: or what the node meets, or how long it takes, would tell of one that is private.
func (i inquiry) visible(ctx context.Context) error {
	if i.node.get().IsZero() {
		return nil
	}
	path, err := fetcher.ParsePath(".gitattributes") // whether it is there does not matter
	if err != nil {
		return err
	}
	_, err = i.authority.Prove(ctx, i.query.repo, i.query.ref, path, i.cred)
	if errors.Is(err, fetcher.ErrEntryNotFound) && !errors.Is(err, fetcher.ErrRevisionNotFound) {
		return nil
	}
	return err
}

// first asks about what nothing is known of.
func (i inquiry) first(ctx context.Context) (showing, error) {
	res, err := i.resolve(ctx, i.query.ref)
	if err != nil {
		return showing{}, err
	}
	m, err := i.list(ctx, res.Commit)
	if err != nil {
		return showing{}, err
	}
	shown := showing{m, res.RepoID, time.Now()}
	_, err = i.prove(ctx, res.Commit.Ref(), m)
	return shown, err
}

// anew asks whether m is still what the Ref is, and proves access to that.
func (i inquiry) anew(ctx context.Context, m *fetcher.Manifest) (showing, error) {
	asked := time.Now()
	commit, err := i.prove(ctx, i.query.ref, m)
	if err != nil {
		return showing{}, err
	}
	same := commit == m.Revision.Commit
	if same && i.renews {
		return showing{manifest: m, proved: asked}, nil
	}
	ref := commit.Ref()
	if commit.IsZero() { // not told
		ref = i.query.ref
	}
	res, err := i.resolve(ctx, ref)
	if err != nil {
		return showing{}, err
	}
	shown := showing{m, res.RepoID, asked}
	if res.Commit != m.Revision.Commit || res.RepoID != "" && res.RepoID != i.origin.ID {
		shown.manifest, err = i.list(ctx, res.Commit)
	}
	return shown, err
}

// prove proves access to the content of ref, by the file of m that shows it for all, and
// returns the commit that ref is, zero if that is not told.
func (i inquiry) prove(ctx context.Context, ref fetcher.Ref, m *fetcher.Manifest) (fetcher.Commit, error) {
	file := probe(m)
	proof, err := i.authority.Prove(ctx, i.query.repo, ref, file.Path, i.cred)
	if err != nil {
		return fetcher.Commit{}, err
	}
	told := proof.Digest.Algorithm() == file.Digest.Algorithm() && !proof.Digest.IsZero()
	pinned, isPinned := ref.Commit()
	switch {
	case isPinned && !proof.Commit.IsZero() && proof.Commit != pinned:
		return fetcher.Commit{}, fmt.Errorf("%w: %s answers for commit %s of %s with commit %s",
			fetcher.ErrMalformed, i.authority.Name(), ref, i.query.repo, proof.Commit)
	case proof.Commit == m.Revision.Commit && told && proof.Digest != file.Digest:
		return fetcher.Commit{}, fmt.Errorf("%w: %s lists %s of %s as %s and serves it as %s", fetcher.ErrMalformed,
			i.authority.Name(), file.Path, m.Revision, file.Digest, proof.Digest)
	case isPinned:
		return pinned, nil
	}
	return proof.Commit, nil
}

// resolve asks what ref is.
func (i inquiry) resolve(ctx context.Context, ref fetcher.Ref) (fetcher.Resolution, error) {
	return sparing(ctx, i, func(cred fetcher.Secret) (fetcher.Resolution, error) {
		return i.authority.Resolve(ctx, i.query.repo, ref, cred)
	})
}

// list asks what c holds. It comes after resolve, so that no Manifest is without the name
// that its Repo had at that moment.
func (i inquiry) list(ctx context.Context, c fetcher.Commit) (*fetcher.Manifest, error) {
	return sparing(ctx, i, func(cred fetcher.Secret) (*fetcher.Manifest, error) {
		return i.authority.Manifest(ctx, fetcher.Revision{Repo: i.query.repo, Commit: c}, cred)
	})
}

// sparing asks with the node's token, if there is one and it helps, and else with i.cred.
func sparing[T any](ctx context.Context, i inquiry, ask func(fetcher.Secret) (T, error)) (T, error) {
	if token := i.node.get(); !token.IsZero() {
		answer, err := ask(token)
		if err == nil || ctx.Err() != nil {
			return answer, err
		}
		i.node.failed(token, err)
	}
	return ask(i.cred)
}

// probe chooses the file whose content proves access to all of a Repo: the largest
// LFS file, else the largest file, else the zero File, which stands for the repository
// itself. A request's Filter has no say: a Hub may show some files to anyone.
func probe(m *fetcher.Manifest) (best fetcher.File) {
	for _, f := range m.Files {
		lfs, bestLFS := f.Digest.Algorithm() == fetcher.SHA256, best.Digest.Algorithm() == fetcher.SHA256
		if best.Path.IsZero() || lfs && !bestLFS || lfs == bestLFS && f.Size > best.Size {
			best = f
		}
	}
	return best
}
