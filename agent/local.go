package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// What follows asks local Authorities: for whom the operator opened what they say, and for
// nobody else. To those all that is known here looks as if it were not, and they wait for
// none of it.

// local returns the local Authority called name, which New has seen.
func (a *Agent) local(name string) fetcher.Authority {
	for _, l := range a.cfg.Authorities {
		if l.Name() == name {
			return l
		}
	}
	return nil
}

// nameOf returns the name of a local Authority, or the Hub's (nil).
func (a *Agent) nameOf(by fetcher.Authority) string {
	switch {
	case by != nil:
		return by.Name()
	case a.cfg.Hub != nil:
		return a.cfg.Hub.Name()
	}
	return hubName
}

// isOpenedLocally reports whether a local Authority may stand in for the Hub for q.
func (a *Agent) isOpenedLocally(q query) bool {
	return slices.ContainsFunc(a.cfg.Authorities, func(l fetcher.Authority) bool {
		return a.opened(q.who.Pod, q.repo, l.Name())
	})
}

// asksFirst returns the name of the Authority that is asked first about repo.
func (a *Agent) asksFirst(repo fetcher.Repo) string {
	if bound := a.boundTo(repo); bound != "" && bound != hubName {
		return bound
	}
	if a.cfg.Hub == nil && len(a.cfg.Authorities) > 0 {
		return a.cfg.Authorities[0].Name()
	}
	return a.nameOf(nil)
}

// standIns remembers for whom a local Authority stood in for the Hub: for as long as its
// word is fresh neither is asked again. The zero value is ready.
type standIns struct {
	mu  sync.Mutex // guards met
	met map[standInKey]standIn
}

// standInKey is a credential, a Repo, and the namespace to which a local Authority is opened.
type standInKey struct {
	proof     proofKey
	namespace string
}

func (a *Agent) standInKey(q query) standInKey {
	return standInKey{a.access.proofKey(q.who.Token, q.repo), q.who.Pod.Namespace}
}

// standIn is what the question to the Hub met.
type standIn struct {
	err   error
	until time.Time
}

// lately returns what key's last question met, nil if it is to be asked.
func (s *standIns) lately(key standInKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if met := s.met[key]; time.Now().Before(met.until) {
		return met.err
	}
	return nil
}

// note has lately return err for d. While it does, nothing is noted anew.
func (s *standIns) note(key standInKey, err error, d time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.met[key].until) {
		return
	}
	if s.met == nil {
		s.met = map[standInKey]standIn{}
	}
	s.met[key] = standIn{err, now.Add(d)}
}

// forget has everybody's next question about repo asked.
func (s *standIns) forget(repo fetcher.Repo) {
	s.drop(func(key standInKey, _ standIn) bool { return key.proof.repo == repo })
}

// prune drops what can no longer count.
func (s *standIns) prune(now time.Time) {
	s.drop(func(_ standInKey, met standIn) bool { return !now.Before(met.until) })
}

func (s *standIns) drop(which func(standInKey, standIn) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.met, which)
}

// authoriseLocally is authorise by the local Authorities, in order, for what the Hub has no
// word of: it could not be reached, turned the caller away, or is not there.
func (a *Agent) authoriseLocally(ctx context.Context, q query, need need, asking error) (grant, error) {
	away := fetcher.Unreachable(asking)
	if a.boundTo(q.repo) == hubName || !away && !useless(asking) || !away && len(a.cfg.Authorities) == 0 {
		return grant{}, asking
	}
	unknown := &UnknownError{Hub: asking}
	last, err := a.lastWord(q)
	if err != nil {
		return grant{}, err
	}
	for _, l := range a.cfg.Authorities {
		g, err := a.authoriseBy(ctx, last, need, l)
		if err == nil {
			a.standIns.note(a.standInKey(q), asking, a.cfg.RefMaxAge)
			g.hub = asking
			if asking != errNoHub { // which is how it is meant
				says := fmt.Sprintf("%s says %s is %s", l.Name(), q.ref, g.commit)
				if last.ref != q.ref {
					says = fmt.Sprintf("%s was %s there, and %s has that", q.ref, g.commit, l.Name())
				}
				g.notice = a.without(asking) + "; " + cmp.Or(g.notice, says)
			}
			return g, nil
		}
		if ctx.Err() != nil {
			return grant{}, err
		}
		unknown.Local = append(unknown.Local, LocalError{l.Name(), err})
	}
	own := a.standInKey(q)
	a.standIns.drop(func(key standInKey, _ standIn) bool { return key == own }) // the Hub is asked next time
	return grant{}, unknown
}

// lastWord is q with the commit that the Hub last said its Ref is, if that is on record: of
// a Ref, too, no local Authority's word beats the Hub's.
func (a *Agent) lastWord(q query) (query, error) {
	if a.cfg.Hub == nil {
		return q, nil
	}
	rec, err := a.store.Repo(q.repo)
	if ref, known := rec.Refs[q.ref.String()]; known {
		q.ref = ref.Commit.Ref()
	}
	return q, err
}

// authoriseBy is authorise by one local Authority: by the operator's rule alone.
func (a *Agent) authoriseBy(ctx context.Context, q query, need need, by fetcher.Authority) (grant, error) {
	if !a.opened(q.who.Pod, q.repo, by.Name()) { // before anything is read
		return grant{}, &NotOpenedError{Authority: by.Name(), Namespace: q.who.Pod.Namespace, Repo: q.repo}
	}
	k, err := a.knownBy(ctx, q, need, by)
	if err != nil {
		return grant{}, err
	}
	if k.fresh {
		return k.grant, k.disputed
	}
	g, err := a.await(ctx, q, by)
	switch {
	case err == nil || !fetcher.Unreachable(err):
		return g, err
	case k.disputed != nil:
		return grant{}, k.disputed
	case k.commit.IsZero() || need == listing && k.manifest == nil:
		return grant{}, err
	}
	k.notice = fmt.Sprintf("%s could not be reached; serving %s, which %s was at %s", by.Name(),
		fetcher.Revision{Repo: q.repo, Commit: k.commit}, q.ref, k.resolvedAt.UTC().Format(time.RFC3339))
	return k.grant, nil
}

// knownBy is known, of a local Authority's, for whom that is opened.
func (a *Agent) knownBy(ctx context.Context, q query, need need, by fetcher.Authority) (k knowledge, err error) {
	o := store.Origin{Repo: q.repo, Authority: by.Name()}
	rec, err := a.store.RepoBy(o.Repo, o.Authority)
	if err != nil {
		return k, err
	}
	k.origin, k.opened = o, true
	commit, pinned := q.ref.Commit()
	if !pinned {
		commit = rec.Refs[q.ref.String()].Commit
	}
	listed, ok := rec.Listed[commit.String()]
	if !ok {
		return k, nil
	}
	k.commit, k.listing, k.resolvedAt = commit, listed.Listing, listed.At
	if at := rec.Refs[q.ref.String()].ResolvedAt; !pinned && at.Before(listed.At) {
		k.resolvedAt = at
	}
	k.fresh = within(k.resolvedAt, a.cfg.RefMaxAge)
	k.disputed = a.isDisputed(o, commit, listed, listed.Listing)
	if need == listing {
		k.manifest, err = a.listed.of(ctx, o, commit, k.listing)
		if errors.Is(err, fs.ErrNotExist) {
			k.fresh, err = false, nil
		}
	}
	return k, err
}

// askLocal puts q to a local Authority: what the Ref is and what that holds, each time, as
// it may list a commit anew.
func (a *Agent) askLocal(ctx context.Context, q query, by fetcher.Authority) (grant, error) {
	k, err := a.knownBy(ctx, q, listing, by)
	if err != nil {
		return grant{}, err
	}
	if k.fresh {
		return k.grant, k.disputed // another's answer came between looking and asking
	}
	asked := time.Now()
	res, err := by.Resolve(ctx, q.repo, q.ref, fetcher.Secret{})
	if err != nil {
		return grant{}, err
	}
	rev := fetcher.Revision{Repo: q.repo, Commit: res.Commit}
	m, err := by.Manifest(ctx, rev, fetcher.Secret{})
	if err != nil {
		return grant{}, err
	}
	pinnedTo, pinned := q.ref.Commit()
	if m.Revision != rev || m.Authority != by.Name() || pinned && pinnedTo != res.Commit {
		return grant{}, fmt.Errorf("%w: %s answers for %s with %s by %s", fetcher.ErrMalformed, by.Name(), q, m.Revision, m.Authority)
	}
	g := grant{origin: k.origin, commit: res.Commit, manifest: m, opened: true, listing: store.Listing(m)}
	if err := a.listed.put(g.origin, m); err != nil {
		return grant{}, err
	}
	if err := a.store.SetListed(g.origin, g.commit, g.listing, asked); err != nil {
		return grant{}, err
	}
	if !pinned {
		rec := store.RefRecord{Commit: g.commit, ResolvedAt: asked, Authority: by.Name()}
		if err := a.store.SetRef(g.origin, q.ref, rec); err != nil {
			return grant{}, err
		}
	}
	if err := a.judgeStored(ctx, g.origin, g.commit); err != nil {
		return grant{}, err
	}
	return g, a.disputed(g.origin, g.commit, g.listing)
}
