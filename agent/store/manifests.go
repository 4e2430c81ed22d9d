package store

import (
	"fmt"
	"io/fs"

	"github.com/ballast-csi/ballast/fetcher"
)

// Manifest returns the Manifest of rev. If there is none, or none that can be read, the
// error matches fs.ErrNotExist.
func (s *Store) Manifest(rev fetcher.Revision) (*fetcher.Manifest, error) {
	m, err := readManifest(s.manifestPath(rev), rev)
	switch {
	case err == nil:
		return m, nil
	case absent(err):
		s.lost(s.manifestPath(rev), err)
		return nil, fmt.Errorf("manifest of %s: %w (%w)", rev, fs.ErrNotExist, err)
	default:
		return nil, fmt.Errorf("manifest of %s: %w", rev, err)
	}
}

func readManifest(path string, rev fetcher.Revision) (*fetcher.Manifest, error) {
	var m fetcher.Manifest
	if err := readRecord(path, &m); err != nil {
		return nil, err
	}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, errCorrupt, err)
	}
	if m.Revision != rev {
		return nil, fmt.Errorf("%s: %w: it is that of %s", path, errCorrupt, m.Revision)
	}
	return &m, nil
}

// PutManifest durably records m, replacing what was recorded for its Revision.
func (s *Store) PutManifest(m *fetcher.Manifest) error {
	if err := m.Check(); err != nil {
		return fmt.Errorf("record manifest: %w", err)
	}
	if err := s.usable(); err != nil {
		return err
	}
	s.records.Lock()
	defer s.records.Unlock()
	if err := s.writeRecord(s.manifestPath(m.Revision), m, privateFile); err != nil {
		return fmt.Errorf("record manifest of %s: %w", m.Revision, err)
	}
	return nil
}

func (s *Store) manifestPath(rev fetcher.Revision) string {
	return s.path(manifestsDir, string(rev.Repo.Kind()), rev.Repo.Flat(), rev.Commit.String()+".json")
}
