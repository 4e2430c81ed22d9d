package store

import (
	"fmt"
	"os"
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

// RepoRecord is what is known of a Repo. PublicAt is when it was last proved public;
// zero if it was not.
type RepoRecord struct {
	Refs     map[string]RefRecord `json:"refs"` // by Ref
	PublicAt time.Time            `json:"publicAt,omitzero"`
}

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

// SetRef durably records what ref named. A newer record is kept, unless its time is yet
// to come: a clock's mistake.
func (s *Store) SetRef(r fetcher.Repo, ref fetcher.Ref, rec RefRecord) error {
	if ref.IsZero() || rec.Commit.IsZero() || rec.Authority == "" {
		return fmt.Errorf("record %s of %s: no revision, commit or authority given", ref, r)
	}
	return s.changeRepo(r, func(all *RepoRecord) {
		if all.Refs == nil {
			all.Refs = map[string]RefRecord{}
		}
		if held := all.Refs[ref.String()].ResolvedAt; held.After(rec.ResolvedAt) && !held.After(time.Now()) {
			return
		}
		all.Refs[ref.String()] = rec
	})
}

// SetPublic durably records when r was proved public; a zero time withdraws that.
func (s *Store) SetPublic(r fetcher.Repo, at time.Time) error {
	return s.changeRepo(r, func(all *RepoRecord) { all.PublicAt = at })
}

func (s *Store) changeRepo(r fetcher.Repo, change func(*RepoRecord)) error {
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
	change(&rec)
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
