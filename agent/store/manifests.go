package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/ballast-csi/ballast/fetcher"
)

// manifestFile is a Manifest on disk, with the ID of the Origin that listed it.
type manifestFile struct {
	RepoID string `json:"repoId,omitempty"`
	*fetcher.Manifest
}

// Manifest returns what o listed at commit c. If there is nothing, or nothing that can be
// read, the error matches fs.ErrNotExist.
func (s *Store) Manifest(o Origin, c fetcher.Commit) (*fetcher.Manifest, error) {
	rev := fetcher.Revision{Repo: o.Repo, Commit: c}
	m, err := readManifest(s.manifestPath(o, c), o, c)
	switch {
	case err == nil && m.RepoID == o.ID:
		return m.Manifest, nil
	case err == nil:
		return nil, fmt.Errorf("manifest of %s: %w: it was listed by another repository of that name", rev, fs.ErrNotExist)
	case absent(err):
		s.lost(s.manifestPath(o, c), err)
		return nil, fmt.Errorf("manifest of %s: %w (%w)", rev, fs.ErrNotExist, err)
	default:
		return nil, fmt.Errorf("manifest of %s: %w", rev, err)
	}
}

// readManifest reads what o, whatever its id, listed at c.
func readManifest(path string, o Origin, c fetcher.Commit) (manifestFile, error) {
	rev := fetcher.Revision{Repo: o.Repo, Commit: c}
	m := manifestFile{Manifest: &fetcher.Manifest{}}
	if err := readRecord(path, &m); err != nil {
		return m, err
	}
	if err := m.Check(); err != nil {
		return m, fmt.Errorf("%s: %w: %w", path, errCorrupt, err)
	}
	if m.Revision != rev {
		return m, fmt.Errorf("%s: %w: it is that of %s", path, errCorrupt, m.Revision)
	}
	if o.Local() && (m.Authority != o.Authority || m.RepoID != "") {
		return m, fmt.Errorf("%s: %w: it is what %s listed", path, errCorrupt, m.Authority)
	}
	return m, nil
}

// PutManifest durably records that o listed m, replacing what was recorded for its
// Revision. Anybody may have many large ones listed, so it leaves free what downloads do.
func (s *Store) PutManifest(o Origin, m *fetcher.Manifest) error {
	if err := errors.Join(o.check(), m.Check()); err != nil {
		return fmt.Errorf("record manifest: %w", err)
	}
	if m.Revision.Repo != o.Repo {
		return fmt.Errorf("record manifest of %s: it is not one of %s", m.Revision, o.Repo)
	}
	if o.Local() && m.Authority != o.Authority {
		return fmt.Errorf("record manifest of %s: %s listed it, not %s", m.Revision, m.Authority, o.Authority)
	}
	if err := s.usable(); err != nil {
		return err
	}
	s.listings.Lock()
	defer s.listings.Unlock()
	data, err := encodeRecord(manifestFile{o.ID, m})
	if err == nil {
		err = s.makeRoom(int64(len(data)), func() error { return nil })
	}
	if err == nil {
		err = s.writeEncoded(s.manifestPath(o, m.Revision.Commit), data, privateFile)
	}
	if err != nil {
		return fmt.Errorf("record manifest of %s: %w", m.Revision, err)
	}
	return nil
}

func (s *Store) manifestPath(o Origin, c fetcher.Commit) string {
	return s.path(manifestPath(o, c))
}

// manifestPath is below the cache directory; it does not tell ids.
func manifestPath(o Origin, c fetcher.Commit) string {
	return filepath.Join(manifestsDir, string(o.Repo.Kind()), o.name(), c.String()+".json")
}
