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
}

// knowledge is what is on record about a query.
type knowledge struct {
	grant
	resolvedAt time.Time // the Ref
	publicAt   time.Time // when the Repo was last proved public
	fresh      bool      // the Ref needs no asking, nor does what is needed
	proved     bool      // the caller's own proof counts
}

// allowed reports whether what is on record authorises the query (rule 10 of the design).
func (k knowledge) allowed() bool { return k.public || k.proved || k.opened }

// known reads what is on record; with unreachable, proofs count by the rules for
// when the Hub cannot be reached.
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
func (a *Agent) authorise(ctx context.Context, q query, need need) (grant, error) {
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
	asked, err := a.question(ctx, q)
	if err != nil {
		return grant{}, err
	}
	select {
	case <-asked.done:
	case <-ctx.Done():
		return grant{}, ctx.Err()
	}
	if asked.err == nil {
		return asked.grant, nil
	}
	if g, ok := a.fallBack(ctx, q, need, asked.err); ok {
		return g, nil
	}
	return grant{}, asked.err
}

// fallBack says what q may have though asking failed: if the Hub cannot be reached, what
// was proved and resolved before still holds; and what the operator opened stays open
// when the Hub turns everybody away.
func (a *Agent) fallBack(ctx context.Context, q query, need need, asking error) (grant, bool) {
	k, err := a.known(ctx, q, need, true)
	if err != nil || k.commit.IsZero() || need == listing && k.manifest == nil || !k.allowed() {
		return grant{}, false
	}
	why := "could not be reached"
	if !fetcher.Unreachable(asking) {
		if !k.opened || !fetcher.Denied(asking) {
			return grant{}, false
		}
		why = "does not let this node read it any more"
	}
	name := a.cfg.Hub.Name()
	k.notice = fmt.Sprintf("%s %s; serving %s, which %s was at %s", name, why,
		fetcher.Revision{Repo: q.repo, Commit: k.commit}, q.ref, k.resolvedAt.UTC().Format(time.RFC3339))
	if _, pinned := q.ref.Commit(); pinned {
		k.notice = fmt.Sprintf("%s %s; access was proved earlier", name, why)
		if k.opened {
			k.notice = fmt.Sprintf("%s %s; the operator has opened it to this namespace", name, why)
		}
	}
	return k.grant, true
}
