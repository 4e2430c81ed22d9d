package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// ListedRecord is what a local Authority listed at a commit, and how that compared with the
// Hub. It may list a commit anew (a shared cache that was still being filled), and the Hub
// never does.
type ListedRecord struct {
	Listing string    `json:"listing"`           // of the Manifest that it listed last
	At      time.Time `json:"at"`                // when
	Equal   string    `json:"equal,omitempty"`   // the Listing that the Hub lists too
	Differs string    `json:"differs,omitempty"` // the Listing last found to be another than the Hub's
	How     string    `json:"how,omitempty"`     // in what it differs; a sentence
}

// Disputed reports whether the Hub contradicts listing: once it was asked about the commit,
// it does but for what it lists too. Who lies about a commit will do so in other words.
func (l ListedRecord) Disputed(listing string) bool {
	return (l.Differs != "" || l.Equal != "") && listing != l.Equal
}

// Compared reports whether the last Listing was compared with the Hub's.
func (l ListedRecord) Compared() bool { return l.Listing == l.Equal || l.Listing == l.Differs }

const listingLength = 32 // hex digits

// Listing names the content of m: two Manifests of a Revision have the same one if they
// list the same paths, sizes and Digests.
func Listing(m *fetcher.Manifest) string {
	h := sha256.New()
	var b []byte
	for _, f := range m.Files {
		b = binary.AppendUvarint(b[:0], uint64(len(f.Path.String())))
		b = append(b, f.Path.String()...)
		b = binary.AppendUvarint(b, uint64(f.Size))
		b = append(b, f.Digest.String()+"\n"...)
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:listingLength]
}

func isListing(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == listingLength
}

// SetListed durably records what o, a local Authority's, listed at c, and when.
func (s *Store) SetListed(o Origin, c fetcher.Commit, listing string, at time.Time) error {
	if !isListing(listing) {
		return fmt.Errorf("record what %s lists of %s: no listing given", o.Authority, o.Repo)
	}
	return s.changeListed(o, c, func(l *ListedRecord) { l.Listing, l.At = listing, at })
}

// SetEqual durably records that the Hub lists c as o's listing does.
func (s *Store) SetEqual(o Origin, c fetcher.Commit, listing string) error {
	return s.changeListed(o, c, func(l *ListedRecord) { l.Equal = listing })
}

// SetDiffers durably records that the Hub does not list c as o's listing does, and how that
// differs.
func (s *Store) SetDiffers(o Origin, c fetcher.Commit, listing, how string) error {
	return s.changeListed(o, c, func(l *ListedRecord) { l.Differs, l.How = listing, how })
}

func (s *Store) changeListed(o Origin, c fetcher.Commit, change func(*ListedRecord)) error {
	if !o.Local() || c.IsZero() {
		return fmt.Errorf("record what is listed of %s: no local authority or no commit given", o.Repo)
	}
	return s.changeOrigin(o, func(all *RepoRecord) {
		if all.Listed == nil {
			all.Listed = map[string]ListedRecord{}
		}
		l := all.Listed[c.String()]
		change(&l)
		all.Listed[c.String()] = l
	})
}

// check reports what in r cannot be of o.
func (r RepoRecord) check(o Origin) error {
	if o.Local() && (r.ID != "" || !r.PublicAt.IsZero() || len(r.Shown) > 0) {
		return fmt.Errorf("only the Hub tells a repository's id, and what of it is public")
	}
	if !o.Local() && len(r.Listed) > 0 {
		return fmt.Errorf("what the Hub listed needs no record of that kind")
	}
	for c, l := range r.Listed {
		if _, err := fetcher.ParseCommit(c); err != nil {
			return err
		}
		for _, listing := range []string{l.Listing, l.Equal, l.Differs} {
			if listing != "" && !isListing(listing) {
				return fmt.Errorf("%s has the listing %q", c, listing)
			}
		}
	}
	return nil
}

// Adopt durably records that the bytes of digests which came through from may be used for
// to, without being read again. The caller answers for that.
func (s *Store) Adopt(to, from Origin, digests []fetcher.Digest) error {
	if err := to.check(); err != nil {
		return fmt.Errorf("adopt what came through %s: %w", from.Repo, err)
	}
	if err := s.usable(); err != nil {
		return err
	}
	s.admitting.Lock()
	defer s.admitting.Unlock()
	var came []fetcher.Digest
	for _, d := range digests {
		if s.CameThrough(d, from) {
			came = append(came, d)
		}
	}
	return s.addOrigin(to, came)
}
