package store

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/fetcher"
)

// StaleAfter is the age at which Ingests that nobody goes on with are dropped.
const StaleAfter = 7 * 24 * time.Hour

// recover loads the state of the directory, whatever stopped the process before. It
// removes what was half made and keeps what may be in use. What cannot be read is
// absent, but a Pin that cannot be read pins every View.
func (s *Store) recover() error {
	if err := s.sweep(); err != nil {
		return err
	}
	for _, step := range []func() error{s.recoverBlobs, s.recoverOrigins, s.recoverIngests, s.recoverPins, s.recoverViews} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// unknown logs what does not belong in the cache.
func (s *Store) unknown(path string) {
	s.log.Warn("unknown entry in the cache", zap.String("path", path))
}

// sweep removes temporary files, and syncs every directory outside Views and Ingests: a
// killed process may have left names that everyone can see and a power cut would take.
// (A View is whole by its rename, or removed by recoverViews.) Only what the store makes
// is looked at: the cache directory may be a file system of its own, with a lost+found.
func (s *Store) sweep() error {
	dirs := map[string]bool{s.dir: true}
	err := eachOwn(s.dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case absent(err):
			s.lost(path, err)
			delete(dirs, path)
		case err != nil:
			return err
		case e.IsDir():
			dirs[path] = true
		case durable.IsTemp(e.Name()):
			if err := os.Remove(path); err != nil {
				s.log.Warn("a temporary file stays", zap.Error(err))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	batch := s.disk.Batch()
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		batch.Dir(dir)
		s.made[dir] = true
	}
	return batch.Commit()
}

// eachOwn calls do, as filepath.WalkDir does, for all that the store makes in its
// directory dir, but for Ingests, and for what is in Views.
func eachOwn(dir string, do fs.WalkDirFunc) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.Name() == ingestsDir:
		case e.Name() == viewsDir:
			err = do(path, e, nil)
		case slices.Contains(privateDirs, e.Name()):
			err = filepath.WalkDir(path, do)
		case !e.IsDir():
			err = do(path, e, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recoverBlobs loads the names and sizes of all Blobs that can be seen.
func (s *Store) recoverBlobs() error {
	return eachDigestEntry(s.path(blobsDir), func(d fetcher.Digest, path string, e fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = e.Info()
		}
		switch {
		case absent(err):
			s.lost(path, err)
		case err != nil:
			return err
		case d.IsZero() || !info.Mode().IsRegular():
			s.unknown(path)
		default:
			s.blobs[d] = info.Size()
		}
		return nil
	})
}

// eachDigestEntry calls do for everything in top that is not a directory where one
// belongs, with its Digest if its path is one's, and for what cannot be read, with an
// error; but top itself must be.
func eachDigestEntry(top string, do func(d fetcher.Digest, path string, e fs.DirEntry, err error) error) error {
	return filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil && path == top {
			return err
		}
		if err != nil {
			return do(fetcher.Digest{}, path, e, err)
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		depth := strings.Count(rel, "/") + 1
		if e.IsDir() && (rel == "." || depth < 3) {
			return nil
		}
		d, err := fetcher.NewDigest(fetcher.Algorithm(strings.Split(rel, "/")[0]), e.Name())
		if err != nil || digestPath(d) != rel {
			d = fetcher.Digest{}
		}
		return do(d, path, e, nil)
	})
}

// recoverIngests keeps what can be resumed. It removes an Ingest without data, one of
// bytes that are here and came through its Origin (a Commit was stopped before it cleared
// up), and one that nobody went on with for long.
func (s *Store) recoverIngests() error {
	entries, err := os.ReadDir(s.path(ingestsDir))
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	admitted := map[string]bool{}
	for d := range s.blobs {
		for o := range s.origins[d] {
			admitted[ingestName(o, d)] = true
		}
	}
	for _, e := range entries {
		_, err := dataInfo(s.path(ingestsDir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) || admitted[e.Name()] {
			if err := os.RemoveAll(s.path(ingestsDir, e.Name())); err != nil {
				s.log.Warn("an ingest of no use stays", zap.Error(err))
			}
		}
	}
	if err := s.DropStaleIngests(StaleAfter); err != nil {
		s.log.Warn("stale ingests stay", zap.Error(err))
	}
	return nil
}

// recoverViews removes Views that were not born and loads the others. A View is whole
// by the rename that made it, but one that cannot show what it is, or has lost its root,
// was damaged since: it is offered to nobody. What may be mounted of it is kept, under
// another name (setAside); the mounts do not mind.
func (s *Store) recoverViews() error {
	entries, err := os.ReadDir(s.path(viewsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(viewsDir, e.Name())
		id, suspect := suspectOf(e.Name())
		var err error
		switch {
		case strings.HasSuffix(e.Name(), partialSuffix):
			err = s.disk.RemoveAll(path)
		case suspect && !s.Pinned(id):
			err = s.removeSuspect(e.Name())
		case suspect:
		case !isViewID(e.Name()):
			s.unknown(path)
		default:
			err = s.recoverView(e.Name())
		}
		if absent(err) { // of no more harm than its view, which cannot be made again
			s.log.Error("what is left of a view cannot be cleared up", zap.String("path", path), zap.Error(err))
		} else if err != nil {
			return err
		}
	}
	for name, pin := range s.pins {
		if !s.hasView(pin.View) {
			s.log.Warn("a pin's view does not exist; the pin stays until its volume is unpublished or published again",
				zap.String("pin", name), zap.String("view", pin.View))
		}
	}
	return nil
}

func (s *Store) recoverView(id string) error {
	info, err := readView(s.path(viewsDir, id))
	switch {
	case absent(err):
		s.log.Error("a view is damaged: set aside, to be made again", zap.String("view", id), zap.Bool("pinned", s.Pinned(id)), zap.Error(err))
		return s.setAside(id)
	case err != nil:
		return err
	}
	s.views[id] = info
	return nil
}
