package agent_test

import (
	"slices"
	"strings"
	"testing"
)

// Rule 10 of the design, cell by cell: who is given what, who is refused or left waiting
// and what it is told meanwhile, and who is asked for it.
//
// A cell is a request, for main or for a commit, of a pod whose token is
//
//	none      absent
//	good      one that may read the Repo, and was proved a moment ago
//	revoked   the same, but the Hub has been told since that it is not valid; in flight,
//	          after the request has joined
//	another   valid, of an account that may not read the Repo
//
// for a Repo of which the listing is known, whose Snapshot is here (hit), not here (miss), or
// being brought for the holder of another token that may read it (in flight), while the Hub
// is up, cannot be reached (down), or answers everything with 429. main was resolved too long
// ago to be used without asking.
type cell struct{ ref, repo, state, token, hub string }

var axes = [5][]string{
	{"main", "commit"},
	{"public", "gated", "private"},
	{"hit", "miss", "in flight"},
	{"none", "good", "revoked", "another"},
	{"up", "down", "429"},
}

// What may come of a request.
const (
	given   = "given"
	stale   = "given, and told that the Hub is away"
	hidden  = "refused: private or missing" // of a gated Repo: refused as gated
	invalid = "refused: token not valid"
	shown   = "waits, and sees how far it is"
	blind   = "waits, and is told nothing of the Repo"
	limited = "waits, and is told of the rate limit alone"
)

// rule covers the cells that every one of its lists has; an empty list has all. asked is
// who asked: A anonymously, O with the pod's own token, in small letters for content.
type rule struct {
	why                          string
	ref, repo, state, token, hub []string
	want, asked                  string
}

func is(values ...string) []string { return values }

var rules = []rule{
	// What everybody may read: the token has no say.
	{"anybody's: main is asked for anonymously", is("main"), is("public"), is("hit", "in flight"), nil, is("up"), given, "A"},
	{"anybody's: so are bytes", is("main"), is("public"), is("miss"), nil, is("up"), given, "Aa"},
	{"anybody's, and proved: a commit is not asked about", is("commit"), is("public"), is("in flight"), nil, is("up"), given, ""},
	{"anybody's: bytes are asked for anonymously", is("commit"), is("public"), is("miss"), nil, is("up"), given, "a"},
	{"what needs no asking does not need the Hub", is("commit"), is("public"), is("hit"), nil, nil, given, ""},
	{"while the Hub is away main is what it was", is("main"), is("public"), is("hit"), nil, is("down"), stale, ""},
	{"and its bytes are waited for", nil, is("public"), is("miss"), nil, is("down"), shown, ""},
	{"or those that others bring", nil, is("public"), is("in flight"), is("none", "good", "another"), is("down"), shown, ""},
	{"a rate limit opens nothing that must be asked", is("main"), is("public"), is("hit", "miss"), is("none"), is("429"), limited, "A"},
	{"the same, tried with the token too, which has a limit of its own", is("main"), is("public"), is("hit", "miss"), is("good", "revoked", "another"), is("429"), limited, "AO"},
	{"the same of a download under way", is("main"), is("public"), is("in flight"), is("none"), is("429"), limited, "A"},
	{"the same of a download under way, with a token", is("main"), is("public"), is("in flight"), is("good", "another"), is("429"), limited, "AO"},
	{"a rate limit on bytes is waited out in the flight", is("commit"), is("public"), is("miss"), is("none"), is("429"), shown, "a"},
	{"the same, tried with the token too", is("commit"), is("public"), is("miss"), is("good", "revoked", "another"), is("429"), shown, "ao"},
	{"one that is authorised already sees the flight", is("commit"), is("public"), is("in flight"), is("none", "good", "another"), is("429"), shown, ""},

	// Those who may not read it, whatever is here.
	{"without a token", nil, is("gated", "private"), nil, is("none"), is("up"), hidden, "A"},
	{"with a token that opens other repositories", nil, is("gated", "private"), nil, is("another"), is("up"), hidden, "AO"},
	{"nobody learns a thing while the Hub is away", nil, is("gated", "private"), nil, is("none", "another"), is("down"), blind, ""},
	{"nor from a rate limit", nil, is("gated", "private"), nil, is("none"), is("429"), limited, "A"},
	{"nor from a rate limit, with a token", nil, is("gated", "private"), nil, is("another"), is("429"), limited, "AO"},

	// Those who may: by a proof of less than proofFor.
	{"main is asked for with the token", is("main"), is("gated", "private"), is("hit", "in flight"), is("good"), is("up"), given, "O"},
	{"so are bytes", is("main"), is("gated", "private"), is("miss"), is("good"), is("up"), given, "Oo"},
	{"a commit is not asked about", is("commit"), is("gated", "private"), is("in flight"), is("good"), is("up"), given, ""},
	{"but bytes are", is("commit"), is("gated", "private"), is("miss"), is("good"), is("up"), given, "o"},
	{"a fresh proof needs no Hub, not even one that would withdraw it", is("commit"), is("gated", "private"), is("hit"), is("good", "revoked"), nil, given, ""},
	{"while the Hub is away main is what it was, for whom a proof is fresh", is("main"), is("gated", "private"), is("hit"), is("good", "revoked"), is("down"), stale, ""},
	{"and bytes are waited for", nil, is("gated", "private"), is("miss"), is("good", "revoked"), is("down"), shown, ""},
	{"or those that others bring", nil, is("gated", "private"), is("in flight"), is("good"), is("down"), shown, ""},
	{"a rate limit opens nothing that must be asked, to nobody", is("main"), is("gated", "private"), is("hit", "miss"), is("good", "revoked"), is("429"), limited, "O"},
	{"nor a download under way", is("main"), is("gated", "private"), is("in flight"), is("good"), is("429"), limited, "O"},
	{"whom a proof authorises waits out a limit on bytes", is("commit"), is("gated", "private"), is("miss"), is("good", "revoked"), is("429"), shown, "o"},
	{"and sees the flight of others", is("commit"), is("gated", "private"), is("in flight"), is("good"), is("429"), shown, ""},

	// Those who might until a moment ago.
	{"who asks with it learns of it", is("main"), is("gated", "private"), is("hit", "miss"), is("revoked"), is("up"), invalid, "O"},
	{"so does who must fetch with it", is("commit"), is("gated", "private"), is("miss"), is("revoked"), is("up"), invalid, "o"},
	{"in flight: what others bring is had by the proof", is("main"), is("gated", "private"), is("in flight"), is("revoked"), is("up"), given, "O"},
	{"in flight: what others bring is had by the proof, unasked", is("commit"), is("gated", "private"), is("in flight"), is("revoked"), is("up"), given, ""},
	{"in flight: trouble does not take back what is seen", is("main"), is("gated", "private"), is("in flight"), is("revoked"), is("429", "down"), shown, "O"},
	{"in flight: trouble does not take back what is seen, unasked", is("commit"), is("gated", "private"), is("in flight"), is("revoked"), is("429", "down"), shown, ""},
	{"in flight: nor where anybody may read", is("main"), is("public"), is("in flight"), is("revoked"), is("429", "down"), shown, "A"},
	{"in flight: nor where anybody may read, unasked", is("commit"), is("public"), is("in flight"), is("revoked"), is("429", "down"), shown, ""},
}

func (r rule) covers(c cell) bool {
	for _, axis := range []struct {
		values []string
		value  string
	}{{r.ref, c.ref}, {r.repo, c.repo}, {r.state, c.state}, {r.token, c.token}, {r.hub, c.hub}} {
		if axis.values != nil && !slices.Contains(axis.values, axis.value) {
			return false
		}
	}
	return true
}

func TestRuleTen(t *testing.T) {
	cells := []cell{{}}
	for i, values := range axes {
		var longer []cell
		for _, c := range cells {
			for _, v := range values {
				*[]*string{&c.ref, &c.repo, &c.state, &c.token, &c.hub}[i] = v
				longer = append(longer, c)
			}
		}
		cells = longer
	}
	for _, c := range cells {
		var of []rule
		for _, r := range rules {
			if r.covers(c) {
				of = append(of, r)
			}
		}
		t.Run(strings.Join([]string{c.ref, c.repo, c.state, c.token, c.hub}, "/"), func(t *testing.T) {
			if len(of) != 1 {
				t.Fatalf("%d rules cover it, want one", len(of))
			}
			t.Parallel()
			if got, asked := c.run(t, of[0].want); got != of[0].want || asked != of[0].asked {
				t.Errorf("%s: %s; asked %q; want %s, %q", of[0].why, got, asked, of[0].want, of[0].asked)
			}
		})
	}
}
