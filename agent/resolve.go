package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// grant is what authorise lets a request have.
type grant struct {
	manifest *fetcher.Manifest // of the Revision, only the files that the request's Filter selects
	public   bool              // bytes may be asked for anonymously
	notice   string            // see Mountable
}

// lastAnswer is what those who wait their turn to ask the same learn from the one
// before them.
type lastAnswer struct {
	at  time.Time
	err error // Transient, or nil
}

// authorise proves that req's credential may read req's Repo, and says which
// Revision its Ref is and what that holds. Where a fresh proof, a fresh Ref and a
// Manifest are at hand it asks no one. An error that is not Transient is final for
// this credential.
func (a *Agent) authorise(ctx context.Context, req Request) (grant, error) {
	// Those who ask the same wait here, and find the answer when their turn comes.
	queued := time.Now()
	last, unlock, err := a.asking.lock(ctx, a.access.proofKey(req.Token, req.Repo))
	if err != nil {
		return grant{}, err
	}
	defer unlock()

	known, err := a.known(req, false)
	if err != nil {
		return grant{}, err
	}
	if known.fresh && (known.public || known.proved) {
		if known.public {
			a.renewPublic(req, known)
		}
		return a.grant(req, known.manifest, known.public, "")
	}
	err = last.err
	if err == nil || last.at.Before(queued) {
		var manifest *fetcher.Manifest
		var public bool
		if manifest, public, err = a.ask(ctx, req, known); err == nil {
			return a.grant(req, manifest, public, "")
		}
		if fetcher.Transient(err) {
			*last = lastAnswer{time.Now(), err}
		}
	}
	if !fetcher.Unreachable(err) || ctx.Err() != nil {
		return grant{}, err
	}
	// The Hub cannot be reached: what was proved and resolved before still holds.
	if known, kerr := a.known(req, true); kerr == nil && known.manifest != nil && (known.public || known.proved) {
		notice := fmt.Sprintf("%s could not be reached; serving %s, which %s was at %s", a.cfg.Authority.Name(),
			known.manifest.Revision, req.Ref, known.resolvedAt.UTC().Format(time.RFC3339))
		if _, pinned := req.Ref.Commit(); pinned {
			notice = fmt.Sprintf("%s could not be reached; access was proved earlier", a.cfg.Authority.Name())
		}
		return a.grant(req, known.manifest, known.public, notice)
	}
	return grant{}, err
}

func (a *Agent) grant(req Request, m *fetcher.Manifest, public bool, notice string) (grant, error) {
	sel := m.Select(req.Filter)
	if len(sel.Files) == 0 {
		return grant{}, fmt.Errorf("%s: %w of its %d", m.Revision, ErrNothingSelected, len(m.Files))
	}
	return grant{sel, public, notice}, nil
}

// knowledge is what is on record about a request.
type knowledge struct {
	manifest   *fetcher.Manifest // of the Revision that the Ref is or last was; nil if none
	resolvedAt time.Time
	fresh      bool // manifest is there, and the Ref needs no asking
	public     bool // an anonymous proof counts
	proved     bool // the request's credential's own proof counts
}

// known reads what is on record; with unreachable, proofs count by the rules for
// when the Hub cannot be reached.
func (a *Agent) known(req Request, unreachable bool) (k knowledge, err error) {
	if k.public, err = a.access.public(req.Repo, unreachable); err != nil {
		return k, err
	}
	k.proved = a.access.proved(req.Token, req.Repo, unreachable)
	commit, pinned := req.Ref.Commit()
	if !pinned {
		rec, err := a.store.Repo(req.Repo)
		if err != nil {
			return k, err
		}
		ref, ok := rec.Refs[req.Ref.String()]
		if !ok {
			return k, nil
		}
		commit, k.resolvedAt = ref.Commit, ref.ResolvedAt
	}
	m, err := a.store.Manifest(fetcher.Revision{Repo: req.Repo, Commit: commit})
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	k.manifest = m
	k.fresh = err == nil && (pinned || time.Since(k.resolvedAt) <= a.cfg.RefMaxAge)
	return k, err
}

// ask puts the request to the Authority: anonymously, then with the request's
// token. A proof that everyone may read the Repo is worth a day to every tenant; a
// token's is worth ten minutes to one.
func (a *Agent) ask(ctx context.Context, req Request, known knowledge) (m *fetcher.Manifest, public bool, err error) {
	credentials := []fetcher.Secret{{}, req.Token}
	switch {
	case req.Token.IsZero():
		credentials = credentials[:1]
	case known.proved && !known.public: // not public a moment ago
		credentials = credentials[1:]
	}
	public = known.public
	for _, cred := range credentials {
		m, err = a.askAs(ctx, req, known.manifest, cred)
		var limited *fetcher.RateLimitedError
		switch {
		case err == nil:
			return m, public || cred.IsZero(), a.access.grant(cred, req.Repo)
		case fetcher.Denied(err):
			public = false
			if werr := a.access.withdraw(cred, req.Repo); werr != nil {
				return nil, false, werr
			}
		case !errors.As(err, &limited): // another credential has another limit
			return nil, false, err
		}
	}
	return nil, false, err
}

// askAs asks with one credential: one HEAD of content when a Manifest is at hand,
// which proves access and resolves the Ref at once; the Ref and its Manifest first
// when not. What it learns is recorded only after access is proved.
func (a *Agent) askAs(ctx context.Context, req Request, m *fetcher.Manifest, cred fetcher.Secret) (*fetcher.Manifest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, a.cfg.AskTimeout,
		&fetcher.UnreachableError{Err: fmt.Errorf("%s did not answer about %s within %s", a.cfg.Authority.Name(), req, a.cfg.AskTimeout)})
	defer cancel()
	fresh, err := a.prove(ctx, req, m, cred)
	if m != nil && errors.Is(err, fetcher.ErrEntryNotFound) { // the Ref has moved, and the file is gone
		fresh, err = a.prove(ctx, req, nil, cred)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && fetcher.Unreachable(cause) {
			return nil, cause
		}
		return nil, err
	}
	if fresh != m {
		if err := a.store.PutManifest(fresh); err != nil {
			return nil, err
		}
	}
	if _, pinned := req.Ref.Commit(); !pinned {
		rec := store.RefRecord{Commit: fresh.Revision.Commit, ResolvedAt: time.Now(), Authority: a.cfg.Authority.Name()}
		if err := a.store.SetRef(req.Repo, req.Ref, rec); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// prove is askAs without the records. It returns m itself if that is still what
// the Ref names.
func (a *Agent) prove(ctx context.Context, req Request, m *fetcher.Manifest, cred fetcher.Secret) (*fetcher.Manifest, error) {
	authority, ref := a.cfg.Authority, req.Ref
	if m == nil {
		commit, pinned := ref.Commit()
		if !pinned {
			var err error
			if commit, err = authority.Resolve(ctx, req.Repo, ref, cred); err != nil {
				return nil, err
			}
		}
		var err error
		if m, err = authority.Manifest(ctx, fetcher.Revision{Repo: req.Repo, Commit: commit}, cred); err != nil {
			return nil, err
		}
		ref = commit.Ref()
	}
	file := probe(m.Select(req.Filter))
	proof, err := authority.Prove(ctx, req.Repo, ref, file.Path, cred)
	if err != nil {
		return nil, err
	}
	commit := proof.Commit
	if commit.IsZero() { // not told
		if commit, err = authority.Resolve(ctx, req.Repo, ref, cred); err != nil {
			return nil, err
		}
	}
	switch same := commit == m.Revision.Commit; {
	case same && !proof.Digest.IsZero() && !file.Path.IsZero() && proof.Digest != file.Digest:
		return nil, fmt.Errorf("%w: %s lists %s of %s as %s and serves it as %s", fetcher.ErrMalformed,
			authority.Name(), file.Path, m.Revision, file.Digest, proof.Digest)
	case same:
		return m, nil
	}
	if _, pinned := ref.Commit(); pinned {
		return nil, fmt.Errorf("%w: %s answers for commit %s with commit %s", fetcher.ErrMalformed, authority.Name(), ref, commit)
	}
	return authority.Manifest(ctx, fetcher.Revision{Repo: req.Repo, Commit: commit}, cred)
}

// probe chooses the file whose content proves access: the largest LFS file, else
// the largest file, else the zero File, which stands for the repository itself.
func probe(m *fetcher.Manifest) (best fetcher.File) {
	for _, f := range m.Files {
		lfs, bestLFS := f.Digest.Algorithm() == fetcher.SHA256, best.Digest.Algorithm() == fetcher.SHA256
		if best.Path.IsZero() || lfs && !bestLFS || lfs == bestLFS && f.Size > best.Size {
			best = f
		}
	}
	return best
}

// renewPublic proves in the background that repo is still public once half its
// proof's life is over, so that no pod waits for it.
func (a *Agent) renewPublic(req Request, known knowledge) {
	rec, err := a.store.Repo(req.Repo)
	if err != nil || time.Since(rec.PublicAt) <= a.cfg.PublicFor/2 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, busy := a.renew[req.Repo]; busy {
		return
	}
	started := a.begin(func() {
		defer func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.renew, req.Repo)
		}()
		anonymous := req
		anonymous.Token = fetcher.Secret{}
		if _, _, err := a.ask(a.ctx, anonymous, known); err != nil {
			a.log.Info("proof that a repository is public was not renewed", zap.Stringer("repo", req.Repo), zap.Error(err))
		}
	})
	if started {
		a.renew[req.Repo] = struct{}{}
	}
}
