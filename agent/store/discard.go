package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// remove removes what is on disk of an Ingest. Not synced: what a power cut brings
// back is hashed before it is believed.
func (p place) remove() error {
	if p.dir != "" {
		return os.RemoveAll(p.dir)
	}
	return os.RemoveAll(p.data)
}

// discard removes the bytes of in, which takes no more.
func (in *Ingest) discard() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.state != closed {
		in.state = spent
	}
	return in.place.remove()
}

// DropStaleIngests removes every Ingest that is not open and whose data were last
// written longer than olderThan ago: it holds room for all of its file, and nobody is
// going on with it.
func (s *Store) DropStaleIngests(olderThan time.Duration) error {
	if err := s.usable(); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path(ingestsDir))
	if err != nil {
		return fmt.Errorf("drop stale ingests: %w", err)
	}
	var errs error
	for _, e := range entries {
		if err := s.dropIfStale(e.Name(), olderThan); err != nil {
			errs = errors.Join(errs, fmt.Errorf("drop stale ingests: %w", err))
		}
	}
	return errs
}

// dropIfStale holds claiming: whoever would open this Ingest waits until it is gone.
func (s *Store) dropIfStale(name string, olderThan time.Duration) error {
	s.claiming.Lock()
	defer s.claiming.Unlock()
	s.mu.RLock()
	open := s.busy[name]
	s.mu.RUnlock()
	if open {
		return nil
	}
	path := s.path(ingestsDir, name)
	info, err := dataInfo(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // Closed meanwhile, or Open's to remove
		return nil
	case err != nil:
		return err
	case time.Since(info.ModTime()) <= olderThan:
		return nil
	}
	return os.RemoveAll(path)
}

// dataInfo describes the data of the Ingest at path.
func dataInfo(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if err == nil && info.IsDir() {
		return os.Lstat(filepath.Join(path, dataFile))
	}
	return info, err
}
