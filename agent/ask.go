package agent

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// asker is a credential to ask with: none, a caller's, or the node's.
type asker struct {
	cred fetcher.Secret
	node bool // what the node is shown proves nothing for anybody
}

// askers says as whom to ask about q, in turn. An anonymous proof is worth a day to every
// tenant, a token's ten minutes to one. The node's token only finds out what an opened
// Repo holds now.
func (a *Agent) askers(q query, k knowledge) []asker {
	var own, node []asker
	if !q.who.Token.IsZero() {
		own = []asker{{cred: q.who.Token}}
	}
	if token := a.node.get(); k.opened && !token.IsZero() {
		node = []asker{{token, true}}
	}
	anonymous := []asker{{}}
	switch {
	case k.proved && k.publicAt.IsZero(): // not public a moment ago
		return slices.Concat(own, node)
	case k.opened && k.publicAt.IsZero():
		return slices.Concat(own, node, anonymous)
	}
	return slices.Concat(anonymous, own, node)
}

// ask puts q to the Hub. As long as an anonymous proof is on record, of whatever
// age, nothing is asked as the node: what that is shown would be everybody's.
func (a *Agent) ask(ctx context.Context, q query) (grant, error) {
	k, err := a.known(ctx, q, listing, false)
	if err != nil {
		return grant{}, err
	}
	if k.fresh && (k.proved || k.opened || k.public && within(k.publicAt, a.cfg.PublicFor/2)) {
		return k.grant, nil // another's answer came between looking and asking
	}
	var told error
	for _, by := range a.askers(q, k) {
		if by.node && !k.publicAt.IsZero() {
			continue
		}
		g, err := a.askAs(ctx, q, k, by)
		if err == nil {
			return g, nil
		}
		if fetcher.Denied(err) && !by.node {
			if by.cred.IsZero() {
				k.public, k.publicAt = false, time.Time{}
			}
			if err := a.access.withdraw(by.cred, q.repo); err != nil {
				return grant{}, err
			}
		}
		if !by.node || fetcher.Transient(err) { // a verdict on the node is nobody's
			told = telling(told, err)
		}
	}
	return grant{}, told
}

// telling chooses between what an anonymous request and then a token were told: a rate
// limit passes; a verdict on the token, or one that was not sent, says nothing about the
// rest.
func telling(anonymous, token error) error {
	var limited *fetcher.RateLimitedError
	switch {
	case errors.As(anonymous, &limited) && !errors.As(token, new(*fetcher.RateLimitedError)):
		return anonymous // and so the Hub was reached
	case anonymous == nil || fetcher.Transient(token):
		return token
	case fetcher.Denied(token) && !fetcher.Denied(anonymous) && !fetcher.Unreachable(anonymous):
		return anonymous
	case errors.Is(token, fetcher.ErrInsecure) && !fetcher.Denied(anonymous):
		return anonymous
	}
	return token
}

// askAs asks with one credential. What it learns is recorded only after access is proved,
// as of when it was asked: a listing may take minutes, and others may have learned better
// meanwhile. Whose name it is comes first: nothing is known of another Origin.
func (a *Agent) askAs(ctx context.Context, q query, k knowledge, by asker) (grant, error) {
	defer a.access.ask(by.cred, q.repo)()
	asked := time.Now()
	i := inquiry{hub: a.cfg.Hub, query: q, cred: by.cred, origin: k.origin, record: a.listed.get}
	renews := by.node || !k.publicAt.IsZero() // as the node nothing is proved
	if !by.cred.IsZero() && !by.node {
		renews = a.access.once(by.cred, k.origin)
	}
	if by == (asker{}) {
		i.node = a.node
	}
	if renews && !k.commit.IsZero() {
		m, err := a.listed.get(ctx, k.origin, k.commit)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return grant{}, err
		}
		i.held = m
	}
	shown, err := i.ask(ctx)
	if err != nil {
		return grant{}, err
	}
	if shown.origin != k.origin { // so that who did not ask does not say whose name it is
		if err := a.store.Identify(q.repo, shown.origin.ID); err != nil {
			return grant{}, err
		}
	}
	if !by.node {
		if err := a.access.grant(by.cred, shown.origin, shown.proved); err != nil {
			return grant{}, err
		}
	}
	if by == (asker{}) {
		if err := a.store.SetShown(shown.origin, shown.manifest.Revision.Commit); err != nil {
			return grant{}, err
		}
	}
	if shown.listed {
		if err := a.listed.put(shown.origin, shown.manifest); err != nil {
			return grant{}, err
		}
	}
	g := grant{
		origin: shown.origin, commit: shown.manifest.Revision.Commit, manifest: shown.manifest, opened: k.opened,
		public: by == asker{} || k.public && shown.origin == k.origin,
	}
	if _, pinned := q.ref.Commit(); !pinned {
		rec := store.RefRecord{Commit: g.commit, ResolvedAt: asked, Authority: a.cfg.Hub.Name()}
		if err := a.store.SetRef(g.origin, q.ref, rec); err != nil {
			return grant{}, err
		}
	}
	return g, nil
}
