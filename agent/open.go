package agent

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Opening is an operator's rule: the pods of these namespaces may have the Repos that
// match, or all that a local Authority knows, without a proof of their own. It opens
// nothing to anybody else.
type Opening struct {
	Repos      string   // a pattern of path.Match over the Repo as users write it: "org/*", "datasets/org/*"
	Authority  string   // in its place: the Name of one of Config.Authorities, for what it says alone
	Namespaces []string // "*" is every namespace
}

// Binding is an operator's rule: of the Repos that match only this Authority says what
// they are. If that is not the Hub, the Hub is never asked about them, nor for their
// bytes: a stranger who registers such a name there gains nothing.
type Binding struct {
	Repos     string // a pattern as Opening.Repos
	Authority string // its Name: hubName, or that of one of Config.Authorities
}

// hubName is the Hub's in a Binding.
const hubName = "hub"

// everyNamespace is what an Opening names instead of all of them.
const everyNamespace = "*"

// checkRules reports what is wrong with the operator's rules, and with the names of the
// Authorities that they are about.
func (c *Config) checkRules() error {
	var errs []error
	known := map[string]bool{}
	for _, a := range c.Authorities {
		name := a.Name()
		if !store.IsAuthorityName(name) || name == hubName || known[name] {
			errs = append(errs, fmt.Errorf("authority %q: must have a name of its own, of 1 to 32 of a-z, 0-9 and '-', that is not %q", name, hubName))
		}
		known[name] = true
	}
	sources := map[string]bool{}
	for _, s := range c.Sources {
		if sources[s.Name()] {
			errs = append(errs, fmt.Errorf("source %q: two have this name", s.Name()))
		}
		sources[s.Name()] = true
	}
	for _, o := range c.Open {
		errs = append(errs, o.check(known))
	}
	for _, b := range c.Bindings {
		if !isPattern(b.Repos) {
			errs = append(errs, fmt.Errorf("authority of %q: not a pattern of repositories, as org/name or org/*", b.Repos))
		}
		if b.Authority != hubName && !known[b.Authority] {
			errs = append(errs, fmt.Errorf("authority of %q: there is none named %q", b.Repos, b.Authority))
		}
	}
	return errors.Join(errs...)
}

// check reports what is wrong with o, where there are these local Authorities.
func (o Opening) check(known map[string]bool) error {
	what := o.Repos + o.Authority
	switch {
	case (o.Repos == "") == (o.Authority == ""):
		return fmt.Errorf("open %q: must name either repositories or an authority", what)
	case o.Repos != "" && !isPattern(o.Repos):
		return fmt.Errorf("open %q: not a pattern of repositories, as org/name or org/*", what)
	case o.Authority != "" && !known[o.Authority]:
		return fmt.Errorf("open %q: there is no such local authority", what)
	case len(o.Namespaces) == 0 || slices.Contains(o.Namespaces, ""):
		return fmt.Errorf("open %q: names no namespace, or an empty one", what)
	}
	return nil
}

func isPattern(repos string) bool {
	_, err := path.Match(repos, "")
	return err == nil && repos != ""
}

// matches reports whether pattern, which New checked, is one of repo.
func matches(pattern string, repo fetcher.Repo) bool {
	match, _ := path.Match(pattern, repo.String())
	return match
}

// opened reports whether a rule opens repo to p, as the Hub or a local Authority ("" for
// the Hub) knows it. A Pod without a namespace (the command line) is opened nothing.
func (a *Agent) opened(p Pod, repo fetcher.Repo, authority string) bool {
	return p.Namespace != "" && slices.ContainsFunc(a.cfg.Open, func(o Opening) bool {
		about := o.Repos != "" && matches(o.Repos, repo) || o.Authority != "" && o.Authority == authority
		return about && (slices.Contains(o.Namespaces, p.Namespace) || slices.Contains(o.Namespaces, everyNamespace))
	})
}

// boundTo returns the name of the only Authority that says what repo is, "" if there is no
// such rule.
func (a *Agent) boundTo(repo fetcher.Repo) string {
	for _, b := range a.cfg.Bindings {
		if match, _ := path.Match(strings.ToLower(b.Repos), strings.ToLower(repo.String())); match { // as the Hub tells names apart
			return b.Authority
		}
	}
	return ""
}

// offHub reports whether the Hub is never asked about repo.
func (a *Agent) offHub(repo fetcher.Repo) bool {
	bound := a.boundTo(repo)
	return bound != "" && bound != hubName
}

// sourcesFor returns what o's bytes may be asked of, in order.
func (a *Agent) sourcesFor(o store.Origin) []fetcher.Source {
	if a.offHub(o.Repo) {
		return a.offHubSources
	}
	return a.cfg.Sources
}
