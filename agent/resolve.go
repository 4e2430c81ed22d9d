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

// askKey is what a question is about.
type askKey struct {
	proof proofKey
	ref   fetcher.Ref
}

// longestAnswer bounds one question, a listing of a million files included.
const longestAnswer = 10 * time.Minute

// question is put to the Authority once for all who wait for its answer. It outlives
// their calls: a long listing takes longer than one.
type question struct {
	done     chan struct{} // closed when it is answered
	manifest *fetcher.Manifest
	public   bool
	err      error
}

// authorise proves that req's credential may read req's Repo, and says which
// Revision its Ref is and what that holds. Where a fresh proof, a fresh Ref and a
// Manifest are at hand it asks no one and waits for no one. An error that is not
// Transient is final for this credential.
func (a *Agent) authorise(ctx context.Context, req Request) (grant, error) {
	known, err := a.known(req, false)
	if err != nil {
		return grant{}, err
	}
	if known.fresh && (known.public || known.proved) {
		if known.public && !within(known.publicAt, a.cfg.PublicFor/2) {
			anonymous := req
			anonymous.Token = fetcher.Secret{}
			a.question(anonymous, known) // so that no pod waits when the proof has ended
		}
		return a.grant(ctx, req, known.manifest, known.public, "")
	}
	q := a.question(req, known)
	select {
	case <-q.done:
	case <-ctx.Done():
		return grant{}, ctx.Err()
	}
	if q.err == nil {
		return a.grant(ctx, req, q.manifest, q.public, "")
	}
	if !fetcher.Unreachable(q.err) {
		return grant{}, q.err
	}
	// The Hub cannot be reached: what was proved and resolved before still holds.
	if known, err := a.known(req, true); err == nil && known.manifest != nil && (known.public || known.proved) {
		notice := fmt.Sprintf("%s could not be reached; serving %s, which %s was at %s", a.cfg.Authority.Name(),
			known.manifest.Revision, req.Ref, known.resolvedAt.UTC().Format(time.RFC3339))
		if _, pinned := req.Ref.Commit(); pinned {
			notice = fmt.Sprintf("%s could not be reached; access was proved earlier", a.cfg.Authority.Name())
		}
		return a.grant(ctx, req, known.manifest, known.public, notice)
	}
	return grant{}, q.err
}

// question returns the one being asked about req, or begins to ask it.
func (a *Agent) question(req Request, known knowledge) *question {
	key := askKey{a.access.proofKey(req.Token, req.Repo), req.Ref}
	a.mu.Lock()
	defer a.mu.Unlock()
	if q := a.questions[key]; q != nil {
		return q
	}
	q := &question{done: make(chan struct{})}
	started := a.begin(func() {
		ctx, cancel := context.WithTimeoutCause(a.ctx, longestAnswer, &fetcher.UnreachableError{
			Err: fmt.Errorf("%s did not answer about %s within %s", a.cfg.Authority.Name(), req, longestAnswer)})
		defer cancel()
		q.manifest, q.public, q.err = a.ask(ctx, req, known)
		if cause := context.Cause(ctx); q.err != nil && fetcher.Unreachable(cause) {
			q.err = cause
		}
		a.mu.Lock()
		delete(a.questions, key)
		a.mu.Unlock()
		close(q.done)
		if a.check(q.err) != nil {
			a.log.Debug("not let through", zap.Stringer("request", req), zap.Error(q.err))
		}
	})
	if !started {
		q.err = context.Canceled
		close(q.done)
		return q
	}
	a.questions[key] = q
	return q
}

func (a *Agent) grant(ctx context.Context, req Request, m *fetcher.Manifest, public bool, notice string) (grant, error) {
	sel, err := m.Select(ctx, req.Filter)
	if err != nil {
		return grant{}, err
	}
	if len(sel.Files) == 0 {
		return grant{}, fmt.Errorf("%s: %w of its %d", m.Revision, ErrNothingSelected, len(m.Files))
	}
	return grant{sel, public, notice}, nil
}

// knowledge is what is on record about a request.
type knowledge struct {
	manifest   *fetcher.Manifest // of the Revision that the Ref is or last was; nil if none
	resolvedAt time.Time         // the Ref
	publicAt   time.Time         // when the Repo was last proved public
	fresh      bool              // manifest is there, and the Ref needs no asking
	public     bool              // an anonymous proof counts
	proved     bool              // the request's credential's own proof counts
}

// known reads what is on record; with unreachable, proofs count by the rules for
// when the Hub cannot be reached.
func (a *Agent) known(req Request, unreachable bool) (k knowledge, err error) {
	rec, err := a.store.Repo(req.Repo)
	if err != nil {
		return k, err
	}
	k.publicAt = rec.PublicAt
	k.public = a.access.public(rec, unreachable)
	k.proved = a.access.proved(req.Token, req.Repo, unreachable)
	commit, pinned := req.Ref.Commit()
	if !pinned {
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
	k.fresh = err == nil && (pinned || within(k.resolvedAt, a.cfg.RefMaxAge))
	return k, err
}

// ask puts the request to the Authority: anonymously, then with the request's
// token. A proof that everyone may read the Repo is worth a day to every tenant; a
// token's is worth ten minutes to one.
func (a *Agent) ask(ctx context.Context, req Request, known knowledge) (_ *fetcher.Manifest, public bool, err error) {
	credentials := []fetcher.Secret{{}, req.Token}
	switch {
	case req.Token.IsZero():
		credentials = credentials[:1]
	case known.proved && !known.public: // not public a moment ago
		credentials = credentials[1:]
	}
	public = known.public
	for _, cred := range credentials {
		m, asking := a.askAs(ctx, req, known.manifest, cred)
		if asking == nil {
			return m, public || cred.IsZero(), nil
		}
		if fetcher.Denied(asking) {
			public = false
			if err := a.access.withdraw(cred, req.Repo); err != nil {
				return nil, false, err
			}
		}
		err = telling(err, asking)
	}
	return nil, false, err
}

// telling chooses between what an anonymous request and then a token were told: a rate
// limit passes; a verdict on the token says nothing about the rest.
func telling(anonymous, token error) error {
	var limited *fetcher.RateLimitedError
	switch {
	case errors.As(anonymous, &limited) && !errors.As(token, new(*fetcher.RateLimitedError)):
		return anonymous // and so the Hub was reached
	case anonymous == nil || fetcher.Transient(token):
		return token
	case fetcher.Denied(token) && !fetcher.Denied(anonymous) && !fetcher.Unreachable(anonymous):
		return anonymous
	}
	return token
}

// askAs asks with one credential: one HEAD of content when a Manifest is at hand,
// which proves access and resolves the Ref at once; the Ref and its Manifest first
// when not. What it learns is recorded only after access is proved, as of when it was
// asked: a listing may take minutes, and others may have learned better meanwhile.
func (a *Agent) askAs(ctx context.Context, req Request, m *fetcher.Manifest, cred fetcher.Secret) (*fetcher.Manifest, error) {
	asked := time.Now()
	fresh, proved, err := a.prove(ctx, req, m, cred)
	if m != nil && errors.Is(err, fetcher.ErrEntryNotFound) { // the Ref has moved, and the file is gone
		fresh, proved, err = a.prove(ctx, req, nil, cred)
	}
	if err != nil {
		return nil, err
	}
	if err := a.access.grant(cred, req.Repo, proved); err != nil {
		return nil, fmt.Errorf("%s: %w", req, err)
	}
	if fresh != m {
		if err := a.store.PutManifest(fresh); err != nil {
			return nil, err
		}
	}
	if _, pinned := req.Ref.Commit(); !pinned {
		rec := store.RefRecord{Commit: fresh.Revision.Commit, ResolvedAt: asked, Authority: a.cfg.Authority.Name()}
		if err := a.store.SetRef(req.Repo, req.Ref, rec); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// prove is askAs without the records. It returns m itself if that is still what the Ref
// names, and when the question that proves access was asked.
func (a *Agent) prove(ctx context.Context, req Request, m *fetcher.Manifest, cred fetcher.Secret) (_ *fetcher.Manifest, proved time.Time, err error) {
	authority, ref := a.cfg.Authority, req.Ref
	if m == nil {
		commit, pinned := ref.Commit()
		if !pinned {
			resolved, err := authority.Resolve(ctx, req.Repo, ref, cred)
			if err != nil {
				return nil, proved, err
			}
			commit = resolved.Commit
		}
		if m, err = authority.Manifest(ctx, fetcher.Revision{Repo: req.Repo, Commit: commit}, cred); err != nil {
			return nil, proved, err
		}
		ref = commit.Ref()
	}
	file := probe(m)
	proved = time.Now()
	proof, err := authority.Prove(ctx, req.Repo, ref, file.Path, cred)
	if err != nil {
		return nil, proved, err
	}
	commit := proof.Commit
	if commit.IsZero() { // not told
		resolved, err := authority.Resolve(ctx, req.Repo, ref, cred)
		if err != nil {
			return nil, proved, err
		}
		commit = resolved.Commit
	}
	told := proof.Digest.Algorithm() == file.Digest.Algorithm() && !proof.Digest.IsZero()
	switch same := commit == m.Revision.Commit; {
	case same && told && proof.Digest != file.Digest:
		return nil, proved, fmt.Errorf("%w: %s lists %s of %s as %s and serves it as %s", fetcher.ErrMalformed,
			authority.Name(), file.Path, m.Revision, file.Digest, proof.Digest)
	case same:
		return m, proved, nil
	}
	if _, pinned := ref.Commit(); pinned {
		return nil, proved, fmt.Errorf("%w: %s answers for commit %s of %s with commit %s", fetcher.ErrMalformed, authority.Name(), ref, req.Repo, commit)
	}
	m, err = authority.Manifest(ctx, fetcher.Revision{Repo: req.Repo, Commit: commit}, cred)
	return m, proved, err
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
