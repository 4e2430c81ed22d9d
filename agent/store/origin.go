package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// Origin is a Repo as one Authority knew it. Authority is "" for the Hub, else the name of
// a local one: what the one said is nothing that the other did. A name on the Hub may be
// given up and registered anew by a stranger, and then ID (fetcher.Resolution.RepoID) is
// another; it is "" where the Hub tells none, and of a local Authority's. What came through
// one Origin is nobody else's, of whatever name.
type Origin struct {
	Repo      fetcher.Repo
	ID        string
	Authority string
}

// Local reports whether a local Authority says what o is.
func (o Origin) Local() bool { return o.Authority != "" }

var (
	originID      = regexp.MustCompile(`^[0-9A-Za-z_-]{0,64}$`)
	authorityName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
)

// IsAuthorityName reports whether name can be that of a local Authority.
func IsAuthorityName(name string) bool { return authorityName.MatchString(name) }

// check also makes sure that o can be a file's name.
func (o Origin) check() error {
	if o.Repo.IsZero() {
		return fmt.Errorf("no repository given")
	}
	if !originID.MatchString(o.ID) {
		return fmt.Errorf("%s: the repository's id %.80q: must be up to 64 letters, digits, '-' and '_'", o.Repo, o.ID)
	}
	if o.Local() && (o.ID != "" || !IsAuthorityName(o.Authority)) {
		return fmt.Errorf("%s: the authority %.80q: must be 1 to 32 of a-z, 0-9 and '-', and tell no id of the repository", o.Repo, o.Authority)
	}
	return nil
}

// name returns o without its Repo's kind as one path component: "org--name" for the Hub's,
// "org--name+<authority>" for a local one's. No Repo's name holds a '+' or a '@'.
func (o Origin) name() string {
	if o.Local() {
		return o.Repo.Flat() + "+" + o.Authority
	}
	return o.Repo.Flat()
}

// flat is name with the id, if there is one: "org--name@<id>".
func (o Origin) flat() string {
	if o.ID == "" {
		return o.name()
	}
	return o.name() + "@" + o.ID
}

// unflatName undoes Origin.name.
func unflatName(kind fetcher.Kind, flat string) (Origin, error) {
	o, err := unflatOrigin(kind, flat)
	if err == nil && o.ID != "" {
		err = fmt.Errorf("%q: an id does not belong here", flat)
	}
	return o, err
}

// unflatOrigin undoes Origin.flat.
func unflatOrigin(kind fetcher.Kind, flat string) (Origin, error) {
	name, id, marked := strings.Cut(flat, "@")
	name, authority, local := strings.Cut(name, "+")
	r, err := unflat(kind, name)
	o := Origin{r, id, authority}
	if err == nil && (marked && id == "" || local && authority == "") {
		err = fmt.Errorf("%q: no id after the '@', or no authority after the '+'", flat)
	}
	if err == nil {
		err = o.check()
	}
	return o, err
}

// hash is long enough that nobody can find two Origins which share one.
func (o Origin) hash() string {
	text := o.Repo.String()
	if o.Local() {
		text += "+" + o.Authority
	}
	if o.ID != "" {
		text += "@" + o.ID
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}
