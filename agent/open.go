package agent

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/ballast-csi/ballast/fetcher"
)

// Opening is an operator's rule: the pods of these namespaces may have the Repos that
// match, without a proof of their own. It opens nothing to anybody else.
type Opening struct {
	Repos      string // a pattern of path.Match over the Repo as users write it: "org/*", "datasets/org/*"
	Namespaces []string
}

// Binding is an operator's rule: of the Repos that match only this Authority says what
// they are. If that is not the Hub, the Hub is never asked about them, nor for their
// bytes: a stranger who registers such a name there gains nothing.
type Binding struct {
	Repos     string // a pattern as Opening.Repos
	Authority string // its Name
}

// check reports what is wrong with o.
func (o Opening) check() error {
	if _, err := path.Match(o.Repos, ""); err != nil || o.Repos == "" {
		return fmt.Errorf("open %q: not a pattern of repositories, as org/name or org/*", o.Repos)
	}
	if len(o.Namespaces) == 0 || slices.Contains(o.Namespaces, "") {
		return fmt.Errorf("open %q: names no namespace, or an empty one", o.Repos)
	}
	return nil
}

func checkOpen(rules []Opening) error {
	var errs []error
	for _, o := range rules {
		errs = append(errs, o.check())
	}
	return errors.Join(errs...)
}

// opened reports whether a rule opens repo to p. A Pod without a namespace (the command
// line) is opened nothing.
func (a *Agent) opened(p Pod, repo fetcher.Repo) bool {
	return p.Namespace != "" && slices.ContainsFunc(a.cfg.Open, func(o Opening) bool {
		match, _ := path.Match(o.Repos, repo.String()) // checked in New
		return match && slices.Contains(o.Namespaces, p.Namespace)
	})
}
