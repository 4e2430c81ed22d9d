package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// inquiry asks the Hub as one credential what a Ref is, what that holds, and to prove
// access to it.
type inquiry struct {
	hub    fetcher.Hub
	query  query
	cred   fetcher.Secret
	origin store.Origin // on record for the Repo's name
	// held is what the Ref last was, if a proof of cred for it is on record, which then one
	// HEAD renews; nil otherwise. A first proof takes more: the Hub's word whose name
	// it is, or who registers that anew with one commit would be let to all that origin
	// had; and nobody who has no access may tell from what he is told, or how soon, that
	// the Repo is held here.
	held *fetcher.Manifest
	// record returns the Manifest that is on record, or an fs.ErrNotExist.
	record func(context.Context, store.Origin, fetcher.Commit) (*fetcher.Manifest, error)
	// node is whose token asks instead of cred, for its rate limit, what was shown to be
	// anybody's to know; nil for nobody's.
	node *nodeToken
}

// showing is what an inquiry was shown, access to content included.
type showing struct {
	origin   store.Origin
	manifest *fetcher.Manifest
	listed   bool      // by the Hub, just now
	proved   time.Time // when the question that proves access was asked
}

// ask asks by one HEAD of content if that can do, which proves access and resolves the Ref
// at once; for the Ref and its Manifest first if not.
func (i inquiry) ask(ctx context.Context) (showing, error) {
	if i.held != nil {
		shown, err := i.renew(ctx)
		if !errors.Is(err, fetcher.ErrEntryNotFound) {
			return shown, err
		}
		// The Ref has moved, and the file is gone.
	} else if err := i.visible(ctx); err != nil {
		return showing{}, err
	}
	shown, err := i.describe(ctx, i.query.ref)
	if err != nil {
		return showing{}, err
	}
	shown.proved = time.Now()
	_, err = i.prove(ctx, shown.manifest.Revision.Commit.Ref(), shown.manifest)
	return shown, err
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
	_, err = i.hub.Prove(ctx, i.query.repo, i.query.ref, path, i.cred)
	if errors.Is(err, fetcher.ErrEntryNotFound) && !errors.Is(err, fetcher.ErrRevisionNotFound) {
		return nil
	}
	return err
}

// renew asks whether held is still what the Ref is, and proves access to that.
func (i inquiry) renew(ctx context.Context) (showing, error) {
	asked := time.Now()
	commit, err := i.prove(ctx, i.query.ref, i.held)
	if err != nil || commit == i.held.Revision.Commit {
		return showing{origin: i.origin, manifest: i.held, proved: asked}, err
	}
	ref := commit.Ref()
	if commit.IsZero() { // not told
		ref = i.query.ref
	}
	shown, err := i.describe(ctx, ref)
	shown.proved = asked
	return shown, err
}

// describe says whose name it is, what ref is, and what that holds: in this order, so that
// no Manifest is without the Origin of that moment.
func (i inquiry) describe(ctx context.Context, ref fetcher.Ref) (showing, error) {
	res, err := sparing(ctx, i, func(cred fetcher.Secret) (fetcher.Resolution, error) {
		return i.hub.Resolve(ctx, i.query.repo, ref, cred)
	})
	if err != nil {
		return showing{}, err
	}
	shown := showing{origin: i.origin}
	if res.RepoID != "" {
		shown.origin.ID = res.RepoID
	}
	shown.manifest, err = i.record(ctx, shown.origin, res.Commit)
	if errors.Is(err, fs.ErrNotExist) {
		shown.listed = true
		shown.manifest, err = sparing(ctx, i, func(cred fetcher.Secret) (*fetcher.Manifest, error) {
			return i.hub.Manifest(ctx, fetcher.Revision{Repo: i.query.repo, Commit: res.Commit}, cred)
		})
	}
	return shown, err
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

// prove proves access to the content of ref, by the file of m that shows it for all, and
// returns the commit that ref is, zero if that is not told.
func (i inquiry) prove(ctx context.Context, ref fetcher.Ref, m *fetcher.Manifest) (fetcher.Commit, error) {
	file := probe(m)
	proof, err := i.hub.Prove(ctx, i.query.repo, ref, file.Path, i.cred)
	if err != nil {
		return fetcher.Commit{}, err
	}
	told := proof.Digest.Algorithm() == file.Digest.Algorithm() && !proof.Digest.IsZero()
	pinned, isPinned := ref.Commit()
	switch {
	case isPinned && !proof.Commit.IsZero() && proof.Commit != pinned:
		return fetcher.Commit{}, fmt.Errorf("%w: %s answers for commit %s of %s with commit %s",
			fetcher.ErrMalformed, i.hub.Name(), ref, i.query.repo, proof.Commit)
	case proof.Commit == m.Revision.Commit && told && proof.Digest != file.Digest:
		return fetcher.Commit{}, fmt.Errorf("%w: %s lists %s of %s as %s and serves it as %s", fetcher.ErrMalformed,
			i.hub.Name(), file.Path, m.Revision, file.Digest, proof.Digest)
	case isPinned:
		return pinned, nil
	}
	return proof.Commit, nil
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
