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
}

// maxShown bounds RepoRecord.Shown. What is not there is asked about again.
const maxShown = 1000

// IsShown reports whether everybody was shown c.
func (r RepoRecord) IsShown(c fetcher.Commit) bool { return slices.Contains(r.Shown, c) }

// repoFile is a RepoRecord on disk.
type repoFile struct {
	Repo fetcher.Repo `json:"repo"`
	RepoRecord
}

// Repo returns a copy of r's record; the zero record if there is none that can be read.
func (s *Store) Repo(r fetcher.Repo) (RepoRecord, error) {
	var rec repoFile
	switch err := readRecord(s.repoPath(r), &rec); {
	case absent(err):
		s.lost(s.repoPath(r), err)
		return RepoRecord{}, nil
	case err != nil:
		return RepoRecord{}, fmt.Errorf("record of %s: %w", r, err)
	}
	if rec.Repo != r {
		return RepoRecord{}, nil
	}
	return rec.RepoRecord, nil
}

// Identify durably records that its Authority calls r id. If it called it otherwise
// before, this is another repository of the same name, and nothing is known of it: Refs
// and PublicAt are forgotten, and what came through the old Origin is none of the new
// one's. An Authority that tells no id ("") changes nothing.
func (s *Store) Identify(r fetcher.Repo, id string) error {
	if err := (Origin{r, id}).check(); err != nil {
		return fmt.Errorf("record of a repository: %w", err)
	}
	rec, err := s.Repo(r)
	if err != nil || id == "" || id == rec.ID {
		return err
	}
	return s.changeRepo(r, func(all *RepoRecord) error {
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
	return s.changeOrigin(o, func(all *RepoRecord) { all.PublicAt = at })
}

// SetShown durably records that everybody was shown c of o. It returns ErrReplaced if its
// name is another Origin's.
func (s *Store) SetShown(o Origin, c fetcher.Commit) error {
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
	return s.changeRepo(o.Repo, func(all *RepoRecord) error {
		if all.ID != o.ID {
			return ErrReplaced
		}
		change(all)
		return nil
	})
}

func (s *Store) changeRepo(r fetcher.Repo, change func(*RepoRecord) error) error {
	if r.IsZero() {
		return fmt.Errorf("record of a repository: no repository given")
	}
	if err := s.usable(); err != nil {
		return err
	}
	s.records.Lock()
	defer s.records.Unlock()
	rec, err := s.Repo(r)
	if err != nil {
		return err
	}
	if err := change(&rec); err != nil {
		return fmt.Errorf("record of %s: %w", r, err)
	}
	if err := s.writeRecord(s.repoPath(r), repoFile{r, rec}, privateFile); err != nil {
		return fmt.Errorf("record of %s: %w", r, err)
	}
	return nil
}

// Repos returns every Repo that has a record which can be read.
func (s *Store) Repos() ([]fetcher.Repo, error) {
	var repos []fetcher.Repo
	for _, kind := range []fetcher.Kind{fetcher.Dataset, fetcher.Model} {
		entries, err := os.ReadDir(s.path(refsDir, string(kind)))
		switch {
		case absent(err):
			s.lost(s.path(refsDir, string(kind)), err)
		case err != nil:
			return nil, fmt.Errorf("list repositories: %w", err)
		}
		for _, e := range entries {
			r, err := unflat(kind, strings.TrimSuffix(e.Name(), ".json"))
			var rec repoFile
			if err == nil {
				err = readRecord(s.repoPath(r), &rec)
			}
			if err == nil && rec.Repo == r {
				repos = append(repos, r)
			}
		}
	}
	return repos, nil
}

func (s *Store) repoPath(r fetcher.Repo) string {
	return s.path(refsDir, string(r.Kind()), r.Flat()+".json")
}

// unflat undoes Repo.Flat.
func unflat(kind fetcher.Kind, flat string) (fetcher.Repo, error) {
	return fetcher.NewRepo(kind, strings.Replace(flat, "--", "/", 1))
}
