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

// need says what a query is authorised for.
type need int

const (
	hit     need = iota // what is ready: the Manifest is not read
	listing             // the Manifest is needed
)

// grant is what authorise lets a query have.
type grant struct {
	origin   store.Origin
	commit   fetcher.Commit    // zero in knowledge, if none is on record
	manifest *fetcher.Manifest // all files at commit; nil if it was not needed
	public   bool              // an anonymous proof counts: bytes may be asked for anonymously
	opened   bool              // by an operator's rule
	notice   string            // see Mountable
	listing  string            // which of a local Authority's Manifests of commit; "" for the Hub's
	hub      error             // what the Hub answered or met, if a local Authority answered in its place
}

// knowledge is what is on record about a query.
type knowledge struct {
	grant
	resolvedAt time.Time // the Ref
	publicAt   time.Time // when the Repo was last proved public
	fresh      bool      // the Ref needs no asking, nor does what is needed
	proved     bool      // the caller's own proof counts
	disputed   error     // by the Hub, if a local Authority said so
}

// allowed reports whether what is on record authorises the query (rule 10 of the design).
func (k knowledge) allowed() bool { return k.public || k.proved || k.opened }

// known reads what is on record of the Hub's; with unreachable, proofs count by the rules
// for when it cannot be reached.
func (a *Agent) known(ctx context.Context, q query, need need, unreachable bool) (k knowledge, err error) {
	rec, err := a.store.Repo(q.repo)
	if err != nil {
		return k, err
	}
	k.origin = store.Origin{Repo: q.repo, ID: rec.ID}
	k.publicAt = rec.PublicAt
	k.public = a.access.public(rec, unreachable)
	k.proved = a.access.proved(q.who.Token, k.origin, unreachable)
	k.opened = a.opened(q.who.Pod, q.repo, "")
	commit, pinned := q.ref.Commit()
	if !pinned {
		ref := rec.Refs[q.ref.String()]
		commit, k.resolvedAt = ref.Commit, ref.ResolvedAt
	}
	// A proof that the Repo is public is one of what everybody was shown, not of what it
	// held when it was not.
	k.public = k.public && (commit.IsZero() || rec.IsShown(commit))
	k.commit = commit
	k.fresh = !commit.IsZero() && (pinned || within(k.resolvedAt, a.cfg.RefMaxAge))
	if need != listing || commit.IsZero() || !k.allowed() {
		return k, nil // how long a listing takes to read tells that it is here
	}
	k.manifest, err = a.listed.get(ctx, k.origin, commit)
	if errors.Is(err, fs.ErrNotExist) {
		k.fresh, err = false, nil
	}
	return k, err
}

// authorise decides whether q's caller may read q's Repo, and says which commit its Ref
// is and, if needed, what that holds. Where that can be told from what is on record it
// asks no one and waits for no one. An error that is not Transient is final for this
// caller.
//
// A Repo that is bound to a local Authority is a matter of that one alone. Of any other the
// Hub is asked, if there is one, and what it answers is final; only where it has no word
// for this caller, a local Authority has one: for whom the operator opened that.
func (a *Agent) authorise(ctx context.Context, q query, need need) (grant, error) {
	bound := a.boundTo(q.repo)
	if bound != "" && bound != hubName {
		return a.authoriseBy(ctx, q, need, a.local(bound))
	}
	_, pinned := q.ref.Commit()
	if pinned && a.isOpenedLocally(q) {
		need = listing // a commit says itself what it is, but not whose word tells what it holds
	}
	k, err := a.known(ctx, q, need, false)
	if err != nil {
		return grant{}, err
	}
	if k.fresh && k.allowed() {
		if k.public && !within(k.publicAt, a.cfg.PublicFor/2) {
			a.renew(query{repo: q.repo, ref: q.ref}) // so that no pod waits when the proof has ended
		}
		return k.grant, nil
	}
	g, asking := a.askHub(ctx, q)
	if asking == nil || ctx.Err() != nil {
		return g, asking
	}
	stored, ok := a.fallBack(ctx, q, need, asking)
	if ok && (a.cfg.Hub != nil || pinned) {
		return stored, nil
	}
	if g, err = a.authoriseLocally(ctx, q, need, asking); err != nil && ok {
		return stored, nil // where there is no Hub any more, what it last said of a Ref comes last
	}
	return g, err
}

// askHub puts q to the Hub, unless a local Authority stood in for it a moment ago.
func (a *Agent) askHub(ctx context.Context, q query) (grant, error) {
	if a.cfg.Hub == nil {
		return grant{}, errNoHub
	}
	if met := a.standIns.lately(a.standInKey(q)); met != nil {
		return grant{}, met
	}
	return a.await(ctx, q, nil)
}

// await waits for the answer to q of a local Authority, or of the Hub (nil).
func (a *Agent) await(ctx context.Context, q query, by fetcher.Authority) (grant, error) {
	asked, err := a.question(ctx, q, by)
	if err != nil {
		return grant{}, err
	}
	select {
	case <-asked.done:
		return asked.grant, asked.err
	case <-ctx.Done():
		return grant{}, ctx.Err()
	}
}

// fallBack says what q may have of the Hub's though asking it failed: if it cannot be
// reached, what was proved and resolved before still holds; and what the operator opened
// stays open when the Hub turns everybody away.
func (a *Agent) fallBack(ctx context.Context, q query, need need, asking error) (grant, bool) {
	k, err := a.known(ctx, q, need, true)
	if err != nil || k.commit.IsZero() || need == listing && k.manifest == nil || !k.allowed() {
		return grant{}, false
	}
	why := a.without(asking)
	if !fetcher.Unreachable(asking) && asking != errNoHub {
		if !k.opened || !fetcher.Denied(asking) {
			return grant{}, false
		}
		why = a.cfg.Hub.Name() + " does not let this node read it any more"
	}
	k.notice = fmt.Sprintf("%s; serving %s, which %s was at %s", why,
		fetcher.Revision{Repo: q.repo, Commit: k.commit}, q.ref, k.resolvedAt.UTC().Format(time.RFC3339))
	if _, pinned := q.ref.Commit(); pinned {
		k.notice = why + "; access was proved earlier"
		if k.opened {
			k.notice = why + "; the operator has opened it to this namespace"
		}
	}
	return k.grant, true
}

// errNoHub: none is configured.
var errNoHub = fmt.Errorf("there is no Hub here: %w", fetcher.ErrNotFound)

// without says why there is no word of the Hub's.
func (a *Agent) without(asking error) string {
	switch {
	case asking == errNoHub:
		return "there is no Hub here"
	case fetcher.Unreachable(asking):
		return a.cfg.Hub.Name() + " could not be reached"
	}
	return a.cfg.Hub.Name() + " does not show it"
}
