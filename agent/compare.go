package agent

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// What follows compares with the Hub what local Authorities said in its absence, as soon as
// it answers. Only Repos that are bound to one are never compared: there the Hub is not
// asked. What the Hub contradicts is given to nobody any more; what it lists too, the Hub's
// Origin has as well.

const (
	// comparedAtOnce bounds the commits of one Repo that are compared in a row, and the
	// Repos that Run's tick looks at.
	comparedAtOnce = 8
	// comparedAgain is how long a Repo rests that the Hub did not show, or about which it
	// made no sense.
	comparedAgain = 10 * time.Minute
)

// comparisons is the state of that. The zero value needs found.
type comparisons struct {
	found *prometheus.CounterVec // differences, by Authority

	// Guarded by Agent.mu.
	underWay map[fetcher.Repo]bool
	rests    map[fetcher.Repo]time.Time // until then
}

func newComparisons(cfg Config) (*comparisons, error) {
	c := &comparisons{
		found: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ballast_authority_disputes_total",
			Help: "Commits of which a local Authority listed what the Hub does not.",
		}, []string{"authority"}),
		underWay: map[fetcher.Repo]bool{},
		rests:    map[fetcher.Repo]time.Time{},
	}
	for _, l := range cfg.Authorities {
		c.found.WithLabelValues(l.Name())
	}
	if cfg.Registerer == nil {
		return c, nil
	}
	return c, cfg.Registerer.Register(c.found)
}

// compareAfter compares what is due of q's Repo, after a question to the Hub about it, if
// that was answered. Only here, the caller's token may ask too.
func (a *Agent) compareAfter(q query, asking error) {
	if asking != nil && !errors.Is(asking, fetcher.ErrRevisionNotFound) || len(a.cfg.Authorities) == 0 {
		return
	}
	a.standIns.forget(q.repo)
	if err := a.compare(a.ctx, q.repo, q.who.Token); err != nil {
		a.log.Debug("not compared with the Hub", zap.Stringer("repo", q.repo), zap.Error(err))
	}
}

// compareDue compares what is due of all Repos, in the background, as far as the Hub can be
// asked.
func (a *Agent) compareDue() {
	if a.cfg.Hub == nil || len(a.cfg.Authorities) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(a.compared.rests, func(_ fetcher.Repo, until time.Time) bool { return now.After(until) })
	if len(a.compared.underWay) == 0 {
		a.begin(func() {
			if err := a.check(a.compareAll()); err != nil {
				a.log.Debug("not compared with the Hub", zap.Error(err))
			}
		})
	}
}

func (a *Agent) compareAll() error {
	locals, err := a.store.Locals()
	if err != nil {
		return err
	}
	// In any order: the Hub's trouble with one Repo is not to hold up the same others for ever.
	rand.Shuffle(len(locals), func(i, j int) { locals[i], locals[j] = locals[j], locals[i] })
	asked := map[fetcher.Repo]bool{}
	for _, o := range locals {
		due, err := a.due(o)
		if err != nil {
			return err
		}
		a.mu.Lock()
		_, rests := a.compared.rests[o.Repo]
		a.mu.Unlock()
		if len(due) == 0 || rests || asked[o.Repo] {
			continue
		}
		if asked[o.Repo] = true; len(asked) > comparedAtOnce {
			return nil
		}
		if err := a.compare(a.ctx, o.Repo, fetcher.Secret{}); fetcher.Transient(err) || a.ctx.Err() != nil {
			return err // the others would meet the same
		} else if err != nil {
			a.mu.Lock()
			a.compared.rests[o.Repo] = time.Now().Add(comparedAgain)
			a.mu.Unlock()
		}
	}
	return nil
}

// due lists the commits of o that are to be compared, at most comparedAtOnce.
func (a *Agent) due(o store.Origin) ([]fetcher.Commit, error) {
	if a.offHub(o.Repo) {
		return nil, nil
	}
	rec, err := a.store.RepoBy(o.Repo, o.Authority)
	if err != nil {
		return nil, err
	}
	var due []fetcher.Commit
	for text, listed := range rec.Listed {
		if commit, err := fetcher.ParseCommit(text); err == nil && !listed.Compared() {
			due = append(due, commit)
		}
	}
	return due[:min(len(due), comparedAtOnce)], nil
}

// compare compares what is due of repo. own, if any, is asked with last.
func (a *Agent) compare(ctx context.Context, repo fetcher.Repo, own fetcher.Secret) error {
	a.mu.Lock()
	busy := a.compared.underWay[repo]
	a.compared.underWay[repo] = true
	a.mu.Unlock()
	if busy {
		return nil
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.compared.underWay, repo)
	}()
	ctx, cancel := context.WithTimeout(ctx, longestAnswer)
	defer cancel()
	var errs []error
	for _, l := range a.cfg.Authorities {
		o := store.Origin{Repo: repo, Authority: l.Name()}
		due, err := a.due(o)
		errs = append(errs, err)
		for _, commit := range due {
			if err := a.compareOne(ctx, o, commit, own); err != nil {
				errs = append(errs, err)
				break
			}
		}
	}
	return a.check(errors.Join(errs...))
}

// compareOne asks the Hub what a commit of o is: anonymously, as the node, with own at last.
func (a *Agent) compareOne(ctx context.Context, o store.Origin, c fetcher.Commit, own fetcher.Secret) error {
	theirs, err := a.storedAnswer(ctx, o.Repo, c)
	if err != nil {
		return err
	}
	if theirs.manifest != nil {
		return a.judge(ctx, o, c, theirs)
	}
	rec, err := a.store.Repo(o.Repo)
	if err != nil {
		return err
	}
	creds := []fetcher.Secret{{}}
	if node := a.node.get(); rec.PublicAt.IsZero() && !node.IsZero() { // as in ask
		creds = append(creds, node)
	}
	if !own.IsZero() {
		creds = append(creds, own)
	}
	for _, cred := range creds {
		if theirs, err = a.hubAnswer(ctx, fetcher.Revision{Repo: o.Repo, Commit: c}, cred); !useless(err) {
			break
		}
	}
	if err != nil {
		return err
	}
	a.standIns.forget(o.Repo) // it answers again
	return a.judge(ctx, o, c, theirs)
}

// hubsWord is what the Hub says of a commit.
type hubsWord struct {
	origin   store.Origin
	manifest *fetcher.Manifest // nil if it knows no such commit
	given    bool              // and it gives the content, too
}

// storedAnswer is what the Hub listed before; that is on record of what it gave somebody.
func (a *Agent) storedAnswer(ctx context.Context, repo fetcher.Repo, c fetcher.Commit) (hubsWord, error) {
	rec, err := a.store.Repo(repo)
	if err != nil {
		return hubsWord{}, err
	}
	word := hubsWord{origin: store.Origin{Repo: repo, ID: rec.ID}, given: true}
	word.manifest, err = a.listed.get(ctx, word.origin, c)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return word, err
}

// hubAnswer asks the Hub. A listing is a claim, and may be shown to who is not given the
// content: so that is asked for as well.
func (a *Agent) hubAnswer(ctx context.Context, rev fetcher.Revision, cred fetcher.Secret) (hubsWord, error) {
	res, err := a.cfg.Hub.Resolve(ctx, rev.Repo, rev.Commit.Ref(), cred)
	if errors.Is(err, fetcher.ErrRevisionNotFound) {
		return hubsWord{}, nil
	}
	if err != nil {
		return hubsWord{}, err
	}
	word := hubsWord{origin: store.Origin{Repo: rev.Repo, ID: res.RepoID}}
	if word.manifest, err = a.cfg.Hub.Manifest(ctx, rev, cred); err != nil {
		return hubsWord{}, err
	}
	i := inquiry{hub: a.cfg.Hub, query: query{repo: rev.Repo, ref: rev.Commit.Ref()}, cred: cred}
	_, err = i.prove(ctx, rev.Commit.Ref(), word.manifest)
	word.given = err == nil
	return word, nil
}
