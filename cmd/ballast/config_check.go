package main

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/cmd/ballast/settings"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/manifestfile"
)

// check reports all that can be seen to be wrong without looking at a file or the network:
// values that would mean something else than they say, and names that name nothing.
func (c *config) check(places *settings.Places) error {
	k := &checker{places: places}
	_, err := zap.ParseAtomicLevel(c.LogLevel)
	k.note("logLevel", err)
	for _, d := range []struct {
		path         string
		value, least time.Duration
	}{
		{"publicFor", c.PublicFor, time.Second},
		{"proofFor", c.ProofFor, time.Second},
		{"refMaxAge", c.RefMaxAge, time.Second},
		{"proofGrace", c.ProofGrace, 0},
	} {
		if d.value < d.least {
			k.failed(d.path, "%s: must be at least %s", d.value, d.least)
		}
	}
	if c.Connections < 1 {
		k.failed("connections", "%d: must be at least 1", c.Connections)
	}
	if p := c.Cache.ReservePercent; !(p >= 0 && p <= 100) { // nor what is no number
		k.failed("cache.reservePercent", "%g: must be from 0 to 100", p)
	}
	_, err = hub.New(hub.Config{Endpoint: c.Hub.Endpoint})
	k.note("hub.endpoint", err)
	k.sources(c)
	k.rules(c)
	return errors.Join(k.errs...)
}

// checker collects what is wrong.
type checker struct {
	places *settings.Places
	errs   []error
}

func (k *checker) note(path string, err error) {
	if err != nil {
		k.errs = append(k.errs, fmt.Errorf("%s: %w", k.places.Name(path), err))
	}
}

func (k *checker) failed(path, format string, args ...any) {
	k.note(path, fmt.Errorf(format, args...))
}

var sourceName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

func (k *checker) sources(c *config) {
	if len(c.Sources) == 0 {
		k.failed("sources", "there is none: nothing could be fetched")
	}
	seen := map[string]int{}
	for i, s := range c.Sources {
		at := fmt.Sprintf("sources[%d]", i)
		kinds := s.kinds()
		if len(kinds) != 1 {
			k.failed(at, "want one of pvc, modelExpress and hub, got %s", said(kinds))
			continue
		}
		first, twice := seen[s.Name]
		switch {
		case !sourceName.MatchString(s.Name):
			k.failed(at+".name", "%q: must be 1 to 32 of a-z, 0-9 and -", s.Name)
		case s.Hub == nil && (s.Name == hub.Name || s.Name == manifestfile.DefaultName):
			k.failed(at+".name", "%q is another's name", s.Name)
		case s.Hub != nil && s.Name != hub.Name:
			k.failed(at+".name", "the Hub's name is %s", hub.Name)
		case twice:
			k.failed(at, "sources[%d] has the name %s too: give one of them another", first, s.Name)
		}
		seen[s.Name] = i
		k.kind(c, at, s)
	}
}

// kind checks what only one kind of source has.
func (k *checker) kind(c *config, at string, s sourceConfig) {
	switch {
	case s.PVC != nil:
		if !strings.HasPrefix(s.PVC.Dir, "/") {
			k.failed(at+".pvc.dir", "%q: want the absolute path where the volume is mounted", s.PVC.Dir)
		}
	case s.ModelExpress != nil:
		m := s.ModelExpress
		if m.URL == "" {
			k.failed(at+".modelExpress.url", "there is none, nor $MODEL_EXPRESS_URL: want host:port")
		} else if u, err := url.Parse(m.URL); err == nil && u.User != nil || strings.Contains(m.URL, "@") {
			k.failed(at+".modelExpress.url", "it has a user in it: a token's place is tokenFile")
		}
		if m.Wait < 0 {
			k.failed(at+".modelExpress.wait", "%s: must not be negative", m.Wait)
		}
		if m.Streams < 0 {
			k.failed(at+".modelExpress.streams", "%d: must be at least 1", m.Streams)
		}
	case c.Hub.Disabled:
		k.failed(at, "the Hub is disabled (hub.disabled)")
	}
}

// said lists words for people.
func said(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, " and ")
}

// authorityNames are those beside the Hub, in the order in which they are asked.
func (c *config) authorityNames() (names []string) {
	for _, s := range c.Sources {
		if s.PVC != nil && s.PVC.Authority {
			names = append(names, s.Name)
		}
	}
	if c.Manifests.Dir != "" {
		names = append(names, manifestfile.DefaultName)
	}
	return names
}

// rules checks authorities and open.
func (k *checker) rules(c *config) {
	others := c.authorityNames()
	all := others
	if c.Hub.Disabled {
		if len(others) == 0 {
			k.failed("hub.disabled", "and there is no other authority: nothing would say what a repository is; give manifests.dir, or a pvc with authority: true")
		}
	} else {
		all = append([]string{hub.Name}, others...)
	}
	for i, b := range c.Authorities {
		at := fmt.Sprintf("authorities[%d]", i)
		k.note(at+".repos", checkPattern(b.Repos))
		k.authority(c, at+".authority", b.Authority, all)
	}
	for i, o := range c.Open {
		at := fmt.Sprintf("open[%d]", i)
		switch {
		case (o.Repos == "") == (o.Authority == ""):
			k.failed(at, "want repos or authority, and not both")
		case o.Repos != "":
			k.note(at+".repos", checkPattern(o.Repos))
		case o.Authority == hub.Name:
			k.failed(at+".authority", "the Hub says itself who may read what: open repositories by their names (repos)")
		default:
			k.authority(c, at+".authority", o.Authority, others)
		}
		k.note(at+".namespaces", checkNamespaces(o.Namespaces))
	}
}

// authority checks that name is one of names.
func (k *checker) authority(c *config, at, name string, names []string) {
	if slices.Contains(names, name) {
		return
	}
	why := settings.Suggest(name, names)
	if i := slices.IndexFunc(c.Sources, func(s sourceConfig) bool { return s.Name == name }); i >= 0 {
		switch s := c.Sources[i]; {
		case s.PVC != nil:
			why = ": its pvc has no authority: true"
		case s.ModelExpress != nil:
			why = ": a Model Express server gives bytes, and its word on what a repository is does not count"
		}
	}
	if name == hub.Name && c.Hub.Disabled {
		why = ": it is disabled (hub.disabled)"
	}
	k.failed(at, "%q is no authority%s; there are: %s", name, why, said(names))
}
