package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
)

// accessFlags are what the operator lends to the node and opens to namespaces.
type accessFlags struct {
	hubTokenFile string
	open         []string
}

func (f *accessFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.hubTokenFile, "hub-token-file", "",
		"file of a Hub token that asks about public repositories, for its higher rate limits; it opens private ones only to whom --open does")
	flags.StringArrayVar(&f.open, "open", nil,
		"PATTERN=NAMESPACE,...: open the repositories that match (org/*, datasets/org/*, org/name) to the pods of these namespaces without a proof of their own; may be given several times")
}

// nodeToken returns what reads the token's file, nil if there is none, and tries it once.
func (f accessFlags) nodeToken() (func() (fetcher.Secret, error), error) {
	if f.hubTokenFile == "" {
		return nil, nil
	}
	read := func() (fetcher.Secret, error) { return readToken(f.hubTokenFile) }
	if _, err := read(); err != nil {
		return nil, usageError{fmt.Errorf("--hub-token-file: %w: mount a Secret's key that holds a Hub token and nothing else, readable for this process, or leave the flag out", err)}
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

// openings parses every --open.
func (f accessFlags) openings() ([]agent.Opening, error) {
	var rules []agent.Opening
	for _, text := range f.open {
		rule, err := parseOpening(text)
		if err != nil {
			return nil, usageError{fmt.Errorf("--open %q: %w: write it as 'org/*=team-a,team-b'", text, err)}
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func parseOpening(text string) (agent.Opening, error) {
	pattern, names, found := strings.Cut(text, "=")
	if !found {
		return agent.Opening{}, errors.New("there is no '='")
	}
	rule := agent.Opening{Repos: pattern, Namespaces: strings.Split(names, ",")}
	_, err := path.Match(pattern, "")
	switch {
	case pattern == "":
		return rule, errors.New("no repositories are named before the '='")
	case err != nil || strings.ContainsAny(pattern, ", \t"):
		return rule, fmt.Errorf("%q is no pattern of repositories", pattern)
	case strings.HasPrefix(pattern, "models/"):
		return rule, errors.New("a model's name begins with its organisation, without models/")
	}
	for _, name := range rule.Namespaces {
		if !namespaceName.MatchString(name) {
			return rule, fmt.Errorf("%q is no name of a namespace (patterns are not for namespaces)", name)
		}
	}
	return rule, nil
}
