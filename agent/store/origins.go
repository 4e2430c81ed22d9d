package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

func (s *Store) originsPath(r fetcher.Repo) string {
	return s.path(originsDir, string(r.Kind()), r.Flat())
}

// addOrigins durably records that the bytes of each d came through r. The caller
// holds admitting.
func (s *Store) addOrigins(r fetcher.Repo, digests []fetcher.Digest) error {
	var fresh []fetcher.Digest
	for _, d := range digests {
		if !s.CameThrough(d, r) {
			fresh = append(fresh, d)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	path := s.originsPath(r)
	if err := s.mkdir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("record origins of %s: %w", r, s.explain(err))
	}
	s.mu.RLock()
	torn := s.tornOrigins[r]
	s.mu.RUnlock()
	var err error
	if torn {
		// What an append that failed left behind may be half a line, or bytes that
		// will not reach the disk.
		err = s.replace(path, originLines(append(s.cameThrough(r), fresh...)), privateFile)
	} else {
		err = s.disk.Append(path, originLines(fresh), privateFile)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.tornOrigins[r] = true
		return fmt.Errorf("record origins of %s: %w", r, s.explain(err))
	}
	delete(s.tornOrigins, r)
	s.noteOrigins(r, fresh)
	return nil
}

// noteOrigins adds to memory what is on disk. The caller holds mu.
func (s *Store) noteOrigins(r fetcher.Repo, digests []fetcher.Digest) {
	for _, d := range digests {
		if s.origins[d] == nil {
			s.origins[d] = map[fetcher.Repo]bool{}
		}
		s.origins[d][r] = true
	}
}

// cameThrough lists every Digest whose bytes came through r.
func (s *Store) cameThrough(r fetcher.Repo) []fetcher.Digest {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []fetcher.Digest
	for d, repos := range s.origins {
		if repos[r] {
			all = append(all, d)
		}
	}
	return all
}

func originLines(digests []fetcher.Digest) []byte {
	var b strings.Builder
	for _, d := range digests {
		b.WriteString(d.String() + "\n")
	}
	return []byte(b.String())
}

// parseOrigins returns the whole lines of an origins file, and whether there was
// anything else in it.
func parseOrigins(text []byte) (digests []fetcher.Digest, whole bool) {
	whole = true
	for line := range strings.Lines(string(text)) {
		d, err := fetcher.ParseDigest(strings.TrimSuffix(line, "\n"))
		if err != nil || !strings.HasSuffix(line, "\n") {
			whole = false
			continue
		}
		digests = append(digests, d)
	}
	return digests, whole
}

// recoverOrigins loads every origins file and replaces one that a crash tore. What one
// that cannot be read said is unknown: those bytes are read again through its Repo.
func (s *Store) recoverOrigins() error {
	return s.eachRepoEntry(originsDir, func(r fetcher.Repo, path string) error {
		text, err := os.ReadFile(path)
		if absent(err) {
			s.lost(path, err)
			s.tornOrigins[r] = true
			return nil
		}
		if err != nil {
			return err
		}
		digests, whole := parseOrigins(text)
		s.mu.Lock()
		s.noteOrigins(r, digests)
		s.mu.Unlock()
		if whole {
			return nil
		}
		s.log.Warn("origins file has a torn line; to be replaced", zap.Stringer("repo", r))
		if err := s.explain(s.replace(path, originLines(digests), privateFile)); err != nil {
			s.tornOrigins[r] = true // before anything is added: a disk in trouble stops no start
			s.log.Warn("and could not be replaced yet", zap.Stringer("repo", r), zap.Error(err))
		}
		return nil
	})
}

// eachRepoEntry calls do for every entry of top/<kind>/ that is named after a Repo.
func (s *Store) eachRepoEntry(top string, do func(r fetcher.Repo, path string) error) error {
	for _, kind := range []fetcher.Kind{fetcher.Dataset, fetcher.Model} {
		entries, err := os.ReadDir(s.path(top, string(kind)))
		switch {
		case absent(err):
			s.lost(s.path(top, string(kind)), err)
			continue
		case err != nil:
			return err
		}
		for _, e := range entries {
			r, err := unflat(kind, e.Name())
			if err != nil {
				s.log.Warn("unknown entry in the cache", zap.String("path", s.path(top, string(kind), e.Name())))
				continue
			}
			if err := do(r, s.path(top, string(kind), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
