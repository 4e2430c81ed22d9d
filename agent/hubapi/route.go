package hubapi

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// action is what a URL asks for.
type action string

const (
	actWhoami    action = "whoami-v2"
	actInfo      action = "revision"
	actTree      action = "tree"
	actPathsInfo action = "paths-info"
	actRefs      action = "refs"
	actAuthCheck action = "auth-check"
	actResolve   action = "resolve"
)

// arguments says how many path segments must follow each action after a
// repository's name in a URL.
var (
	apiActions = map[action]int{actInfo: 1, actTree: 1, actPathsInfo: 1, actRefs: 0, actAuthCheck: 0}
	webActions = map[action]int{actResolve: 2}
)

// route is a URL's path, parsed. Repo, Ref and Path are zero where the action has
// none; an info without a revision has the Ref main.
type route struct {
	action action
	repo   fetcher.Repo
	ref    fetcher.Ref
	path   fetcher.Path
}

// badName is a path segment that is no repository, revision or file path.
type badName struct {
	code string // X-Error-Code, "" for a malformed request
	err  error
}

func (e *badName) Error() string { return e.err.Error() }
func (e *badName) Unwrap() error { return e.err }

// parseRoute reads the path of a URL in its escaped form: "/" separates segments,
// "%2F" is part of one. A path that is no route is (zero, nil).
func parseRoute(escaped string) (route, error) {
	segs := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, s := range segs {
		plain, err := url.PathUnescape(s)
		if err != nil {
			return route{}, &badName{"", fmt.Errorf("URL path: %w", err)}
		}
		segs[i] = plain
	}
	switch {
	case len(segs) == 2 && segs[0] == "api" && segs[1] == string(actWhoami):
		return route{action: actWhoami}, nil
	case len(segs) > 2 && segs[0] == "api" && segs[1] == "models":
		return parseRepoRoute(fetcher.Model, segs[2:], apiActions)
	case len(segs) > 2 && segs[0] == "api" && segs[1] == "datasets":
		return parseRepoRoute(fetcher.Dataset, segs[2:], apiActions)
	case segs[0] == "api":
		return route{}, nil
	case segs[0] == "datasets":
		return parseRepoRoute(fetcher.Dataset, segs[1:], webActions)
	}
	return parseRepoRoute(fetcher.Model, segs, webActions)
}

// parseRepoRoute reads [org/]name[/action/arguments]. Where both readings make
// sense, org/name wins over a bare name, of which the Hub has only a few.
func parseRepoRoute(kind fetcher.Kind, segs []string, actions map[action]int) (route, error) {
	takes := func(i int) bool {
		if i >= len(segs) {
			return false
		}
		n, ok := actions[action(segs[i])]
		return ok && len(segs)-i-1 >= n
	}
	name, act, args := "", action(""), []string(nil)
	_, api := actions[actInfo]
	switch {
	case takes(2):
		name, act, args = segs[0]+"/"+segs[1], action(segs[2]), segs[3:]
	case takes(1):
		name, act, args = segs[0], action(segs[1]), segs[2:]
	case api && len(segs) <= 2:
		name, act, args = strings.Join(segs, "/"), actInfo, []string{"main"}
	default:
		return route{}, nil
	}
	return parseArguments(kind, name, act, args)
}

func parseArguments(kind fetcher.Kind, name string, act action, args []string) (route, error) {
	repo, err := fetcher.NewRepo(kind, name)
	if err != nil {
		return route{}, &badName{"", err}
	}
	r := route{action: act, repo: repo}
	if act == actRefs || act == actAuthCheck {
		if len(args) > 0 {
			return route{}, nil
		}
		return r, nil
	}
	if r.ref, err = fetcher.ParseRef(args[0]); err != nil {
		return route{}, &badName{codeRevision, err}
	}
	path := strings.Join(args[1:], "/")
	if act == actTree { // "tree/main/" is "tree/main"
		path = strings.TrimSuffix(path, "/")
	}
	if path == "" && act != actResolve {
		return r, nil
	}
	if act != actTree && act != actResolve {
		return route{}, nil
	}
	if r.path, err = fetcher.ParsePath(path); err != nil {
		return route{}, &badName{codeEntry, err}
	}
	return r, nil
}
