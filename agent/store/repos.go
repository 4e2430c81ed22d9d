package store

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// RefRecord is what a Ref was last seen to name.
type RefRecord struct {
	Commit     fetcher.Commit `json:"commit"`
	ResolvedAt time.Time      `json:"resolvedAt"`
	Authority  string         `json:"authority"` // who said so
}

// RepoRecord is what is known of a Repo. ID is its Origin's; PublicAt is when it was last
// proved public, zero if it was not. Shown are the commits that everybody was shown, the
// latest last: a Repo that turns public does not show what its owner had removed before.
type RepoRecord struct {
	ID       string               `json:"id,omitempty"`
	Refs     map[string]RefRecord `json:"refs"` // by Ref
	PublicAt time.Time            `json:"publicAt,omitzero"`
	Shown    []fetcher.Commit     `json:"shown,omitempty"`
	// Listed is what a local Authority listed, by commit; empty in what is the Hub's.
	Listed map[string]ListedRecord `json:"listed,omitempty"`
}

// maxShown bounds RepoRecord.Shown. What is not there is asked about again.
const maxShown = 1000

// IsShown reports whether everybody was shown c.
func (r RepoRecord) IsShown(c fetcher.Commit) bool { return slices.Contains(r.Shown, c) }

// repoFile is a RepoRecord on disk: what one Authority said of a Repo ("" for the Hub).
type repoFile struct {
	Repo      fetcher.Repo `json:"repo"`
	Authority string       `json:"authority,omitempty"`
	RepoRecord
}

// by is the Origin without an id that f is the record of.
func (f repoFile) by() Origin { return Origin{Repo: f.Repo, Authority: f.Authority} }

// Repo returns a copy of what the Hub said of r; the zero record if there is none that can
// be read.
func (s *Store) Repo(r fetcher.Repo) (RepoRecord, error) { return s.RepoBy(r, "") }

// RepoBy is Repo by a local Authority, or the Hub ("").
func (s *Store) RepoBy(r fetcher.Repo, authority string) (RepoRecord, error) {
	o := Origin{Repo: r, Authority: authority}
	var rec repoFile
	switch err := readRecord(s.repoPath(o), &rec); {
	case absent(err):
		s.lost(s.repoPath(o), err)
		return RepoRecord{}, nil
	case err != nil:
		return RepoRecord{}, fmt.Errorf("record of %s: %w", r, err)
	}
	if rec.by() != o {
		return RepoRecord{}, nil
	}
	return rec.RepoRecord, nil
}

// Identify durably records that the Hub calls r id. If it called it otherwise
// before, this is another repository of the same name, and nothing is known of it: Refs
// and PublicAt are forgotten, and what came through the old Origin is none of the new
// one's. A Hub that tells no id ("") changes nothing.
func (s *Store) Identify(r fetcher.Repo, id string) error {
	if err := (Origin{Repo: r, ID: id}).check(); err != nil {
		return fmt.Errorf("record of a repository: %w", err)
	}
	rec, err := s.Repo(r)
	if err != nil || id == "" || id == rec.ID {
		return err
	}
	return s.changeRepo(Origin{Repo: r}, func(all *RepoRecord) error {
		if all.ID != id {
			*all = RepoRecord{ID: id}
		}
		return nil
	})
}

// SetRef durably records what ref of o named. It returns ErrReplaced if its name is
// another Origin's. A newer record is kept, unless its time is yet
// to come: a clock's mistake.
func (s *Store) SetRef(o Origin, ref fetcher.Ref, rec RefRecord) error {
	if ref.IsZero() || rec.Commit.IsZero() || rec.Authority == "" {
		return fmt.Errorf("record %s of %s: no revision, commit or authority given", ref, o.Repo)
	}
	return s.changeOrigin(o, func(all *RepoRecord) {
		if all.Refs == nil {
			all.Refs = map[string]RefRecord{}
		}
		if held := all.Refs[ref.String()].ResolvedAt; held.After(rec.ResolvedAt) && !held.After(time.Now()) {
			return
		}
		all.Refs[ref.String()] = rec
	})
}

// SetPublic durably records when o was proved public; a zero time withdraws that. It
// returns ErrReplaced if its name is another Origin's.
func (s *Store) SetPublic(o Origin, at time.Time) error {
	if o.Local() {
		return fmt.Errorf("record that %s is public: only the Hub can tell, not %s", o.Repo, o.Authority)
	}
	return s.changeOrigin(o, func(all *RepoRecord) { all.PublicAt = at })
}

// SetShown durably records that everybody was shown c of o. It returns ErrReplaced if its
// name is another Origin's.
func (s *Store) SetShown(o Origin, c fetcher.Commit) error {
	if o.Local() {
		return fmt.Errorf("record that everybody was shown %s of %s: only the Hub shows, not %s", c, o.Repo, o.Authority)
	}
	if rec, err := s.Repo(o.Repo); err != nil || rec.ID == o.ID && rec.IsShown(c) {
		return err
	}
	return s.changeOrigin(o, func(all *RepoRecord) {
		if !all.IsShown(c) {
			all.Shown = append(all.Shown[max(0, len(all.Shown)+1-maxShown):], c)
		}
	})
}

// changeOrigin is changeRepo as long as o has its name.
func (s *Store) changeOrigin(o Origin, change func(*RepoRecord)) error {
	return s.changeRepo(o, func(all *RepoRecord) error {
		if all.ID != o.ID {
			return ErrReplaced
		}
		change(all)
		return nil
	})
}

// changeRepo changes what o's Authority said of its Repo, whatever the id.
func (s *Store) changeRepo(o Origin, change func(*RepoRecord) error) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("record of a repository: %w", err)
	}
	if err := s.usable(); err != nil {
		return err
	}
	s.records.Lock()
	defer s.records.Unlock()
	rec, err := s.RepoBy(o.Repo, o.Authority)
	if err != nil {
		return err
	}
	if err := change(&rec); err != nil {
		return fmt.Errorf("record of %s: %w", o.Repo, err)
	}
	if err := s.writeRecord(s.repoPath(o), repoFile{o.Repo, o.Authority, rec}, privateFile); err != nil {
		return fmt.Errorf("record of %s: %w", o.Repo, err)
	}
	return nil
}

// Repos returns every Repo of which the Hub said something that can be read.
func (s *Store) Repos() ([]fetcher.Repo, error) {
	all, err := s.recorded()
	var repos []fetcher.Repo
	for _, o := range all {
		if !o.Local() {
			repos = append(repos, o.Repo)
		}
	}
	return repos, err
}

// Locals returns the Origins of which a local Authority said something that can be read.
func (s *Store) Locals() ([]Origin, error) {
	all, err := s.recorded()
	return slices.DeleteFunc(all, func(o Origin) bool { return !o.Local() }), err
}

// recorded returns what there is a record of that can be read, without its id.
func (s *Store) recorded() ([]Origin, error) {
	var all []Origin
	for _, kind := range []fetcher.Kind{fetcher.Dataset, fetcher.Model} {
		entries, err := os.ReadDir(s.path(refsDir, string(kind)))
		switch {
		case absent(err):
			s.lost(s.path(refsDir, string(kind)), err)
		case err != nil:
			return nil, fmt.Errorf("list repositories: %w", err)
		}
		for _, e := range entries {
			o, err := unflatName(kind, strings.TrimSuffix(e.Name(), ".json"))
			var rec repoFile
			if err == nil {
				err = readRecord(s.repoPath(o), &rec)
			}
			if err == nil && rec.by() == o {
				all = append(all, o)
			}
		}
	}
	return all, nil
}

func (s *Store) repoPath(o Origin) string {
	return s.path(refsDir, string(o.Repo.Kind()), o.name()+".json")
}

// unflat undoes Repo.Flat.
func unflat(kind fetcher.Kind, flat string) (fetcher.Repo, error) {
	return fetcher.NewRepo(kind, strings.Replace(flat, "--", "/", 1))
}
