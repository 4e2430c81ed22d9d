package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// Origin is a Repo as its Authority knew it: a name may be given up and registered anew
// by a stranger, and then ID (fetcher.Resolution.RepoID) is another. It is "" where the
// Authority tells none. What came through one Origin is nobody else's, of whatever name.
type Origin struct {
	Repo fetcher.Repo
	ID   string
}

var originID = regexp.MustCompile(`^[0-9A-Za-z_-]{0,64}$`)

// check also makes sure that o can be a file's name.
func (o Origin) check() error {
	if o.Repo.IsZero() {
		return fmt.Errorf("no repository given")
	}
	if !originID.MatchString(o.ID) {
		return fmt.Errorf("%s: the repository's id %.80q: must be up to 64 letters, digits, '-' and '_'", o.Repo, o.ID)
	}
	return nil
}

// flat returns o without its Repo's kind as one path component: "org--name", or
// "org--name@<id>". No name holds a '@'.
func (o Origin) flat() string {
	if o.ID == "" {
		return o.Repo.Flat()
	}
	return o.Repo.Flat() + "@" + o.ID
}

// unflatOrigin undoes Origin.flat.
func unflatOrigin(kind fetcher.Kind, flat string) (Origin, error) {
	name, id, marked := strings.Cut(flat, "@")
	r, err := unflat(kind, name)
	o := Origin{r, id}
	if err == nil && marked && id == "" {
		err = fmt.Errorf("%q: no id after the '@'", flat)
	}
	if err == nil {
		err = o.check()
	}
	return o, err
}

// hash is long enough that nobody can find two Origins which share one.
func (o Origin) hash() string {
	text := o.Repo.String()
	if o.ID != "" {
		text += "@" + o.ID
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}
