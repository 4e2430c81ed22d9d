package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// nodeToken returns what reads the token's file, nil if there is none, and tries it once.
func nodeToken(file string) (func() (fetcher.Secret, error), error) {
	if file == "" {
		return nil, nil
	}
	read := func() (fetcher.Secret, error) { return readToken(file) }
	if _, err := read(); err != nil {
		return nil, fmt.Errorf("%w: mount a Secret's key that holds a Hub token and nothing else, readable for this process, or leave this out", err)
	}
	return read, nil
}

// readToken reads the token that the file holds. No error shows what is in the file.
func readToken(name string) (fetcher.Secret, error) {
	f, err := os.Open(name)
	if err != nil {
		return fetcher.Secret{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10)) // beyond any token
	if err != nil {
		return fetcher.Secret{}, err
	}
	token, err := fetcher.ParseSecret(string(text))
	if err == nil && token.IsZero() {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return fetcher.Secret{}, fmt.Errorf("%s: %w", name, err)
	}
	return token, nil
}

// openings are what the operator opens. As a flag each is PATTERN=NAMESPACE,...
type openings []openConfig

func (o *openings) String() string {
	var texts []string
	for _, rule := range *o {
		texts = append(texts, cmp.Or(rule.Repos, rule.Authority)+"="+strings.Join(rule.Namespaces, ","))
	}
	return strings.Join(texts, " ")
}

func (o *openings) Type() string { return "stringArray" }

// Set adds one.
func (o *openings) Set(text string) error {
	pattern, names, found := strings.Cut(text, "=")
	rule := openConfig{Repos: pattern, Namespaces: strings.Split(names, ",")}
	err := errors.New("there is no '='")
	if found {
		err = errors.Join(checkPattern(pattern), checkNamespaces(rule.Namespaces))
	}
	if err != nil {
		return fmt.Errorf("%w: write it as 'org/*=team-a,team-b'", err)
	}
	*o = append(*o, rule)
	return nil
}

func (o openings) rules() (rules []agent.Opening) {
	for _, r := range o {
		rules = append(rules, agent.Opening{Repos: r.Repos, Authority: r.Authority, Namespaces: r.Namespaces})
	}
	return rules
}

// checkPattern reports what is wrong with a pattern of repositories.
func checkPattern(pattern string) error {
	_, err := path.Match(pattern, "")
	switch {
	case pattern == "":
		return errors.New("no repositories are named")
	case err != nil || strings.ContainsAny(pattern, ", \t"):
		return fmt.Errorf("%q is no pattern of repositories, as org/*, datasets/org/* or org/name", pattern)
	case strings.HasPrefix(pattern, "models/"):
		return errors.New("a model's name begins with its organisation, without models/")
	}
	return nil
}

var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// everyNamespace is what stands in place of names.
const everyNamespace = "*"

// checkNamespaces reports what is wrong with a rule's namespaces.
func checkNamespaces(names []string) error {
	if len(names) == 0 {
		return errors.New("no namespaces are named")
	}
	for _, name := range names {
		switch {
		case name == everyNamespace && len(names) > 1:
			return errors.New("* is every namespace, and stands alone")
		case name != everyNamespace && !namespaceName.MatchString(name):
			return fmt.Errorf("%q is no name of a namespace (patterns are not for namespaces; * alone is every one)", name)
		}
	}
	return nil
}

// bindings are the operator's rules of which Authority says what a Repo is.
func bindings(rules []bindingConfig) (list []agent.Binding) {
	for _, r := range rules {
		list = append(list, agent.Binding{Repos: r.Repos, Authority: r.Authority})
	}
	return slices.Clip(list)
}
