package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/fetcher"
)

// recover loads the state of the directory, whatever stopped the process before. It
// removes what was half made and keeps what may be in use; records that cannot be read
// are absent, but a Pin that cannot be read pins every View.
func (s *Store) recover() error {
	if err := s.sweep(); err != nil {
		return err
	}
	for _, step := range []func() error{s.recoverBlobs, s.recoverOrigins, s.recoverIngests, s.recoverViews, s.recoverPins} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// unswept are the directories that sweep leaves alone: nothing there needs to be
// durable. (A View is whole by its rename, or removed by recoverViews.)
var unswept = map[string]bool{"/" + ingestsDir: true, "/" + trashDir: true, "/" + quarantine: true}

// sweep removes temporary files, and syncs every directory outside Views: a killed
// process may have left names that everyone can see and a power cut would take.
func (s *Store) sweep() error {
	batch := s.disk.Batch()
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (filepath.Dir(path) == s.path(viewsDir) || unswept[path[len(s.dir):]]):
			return filepath.SkipDir
		case e.IsDir():
			batch.Dir(path)
			s.made[path] = true
		case durable.IsTemp(e.Name()):
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path(trashDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.disk.RemoveAll(s.path(trashDir, e.Name())); err != nil {
			return err
		}
	}
	return batch.Commit()
}

// recoverBlobs loads the names and sizes of all Blobs.
func (s *Store) recoverBlobs() error {
	return eachDigestEntry(s.path(blobsDir), func(d fetcher.Digest, path string, e fs.DirEntry) error {
		info, err := e.Info()
		switch {
		case err != nil:
			return err
		case d.IsZero() || !info.Mode().IsRegular():
			s.log.Warn("unknown entry in the cache", zap.String("path", path))
		default:
			s.blobs[d] = info.Size()
		}
		return nil
	})
}

// eachDigestEntry calls do for everything in top that is not a directory where one
// belongs, with its Digest if its path is one's.
func eachDigestEntry(top string, do func(d fetcher.Digest, path string, e fs.DirEntry) error) error {
	return filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
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
		return do(d, path, e)
	})
}

// recoverIngests keeps what can be resumed. It removes an Ingest without data, and one
// of bytes that are here and came through its Repo: a Commit was stopped before it
// cleared up.
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
		for r := range s.origins[d] {
			admitted[ingestName(r, d)] = true
		}
	}
	for _, e := range entries {
		path := s.path(ingestsDir, e.Name())
		empty := false
		if e.IsDir() {
			_, err := os.Lstat(filepath.Join(path, dataFile))
			empty = errors.Is(err, fs.ErrNotExist)
		}
		if empty || admitted[e.Name()] {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// recoverViews removes Views that were not born and loads the others.
func (s *Store) recoverViews() error {
	entries, err := os.ReadDir(s.path(viewsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(viewsDir, e.Name())
		if strings.HasSuffix(e.Name(), partialSuffix) {
			if err := s.disk.RemoveAll(path); err != nil {
				return err
			}
			continue
		}
		if !e.IsDir() {
			s.log.Warn("unknown entry in the cache", zap.String("path", path))
			continue
		}
		var rec viewRecord
		switch err := readRecord(filepath.Join(path, viewFile), &rec); {
		case absent(err):
			// Its id still says what it shows, and its rename that it is whole.
			s.log.Warn("what a view holds cannot be read", zap.String("view", e.Name()), zap.Error(err))
		case err != nil:
			return err
		}
		s.views[e.Name()] = rec.info()
	}
	return nil
}

// recoverPins loads the Pins.
func (s *Store) recoverPins() error {
	names, err := pinNames(s.path(pinsDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		pin, err := readPin(s.pinPath(name), name)
		switch {
		case errors.Is(err, errCorrupt):
			s.log.Error("a pin cannot be read; until its volume is unpublished or published again every view counts as pinned",
				zap.String("pin", s.pinPath(name)), zap.Error(err))
			s.unreadablePins[name] = true
			continue
		case err != nil:
			return err
		}
		s.pins[name] = pin
		if !s.hasView(pin.View) {
			// Left over: safe. As the id says what a View shows, the View made again is
			// the one that was pinned.
			s.log.Warn("a pin is left over: its view does not exist", zap.String("pin", name), zap.String("view", pin.View))
		}
	}
	return nil
}
