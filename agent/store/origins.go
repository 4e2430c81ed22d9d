package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

func (s *Store) originPath(o Origin) string {
	return s.path(originsDir, string(o.Repo.Kind()), o.flat())
}

// addOrigin durably records that the bytes of each digest came through o. The caller
// holds admitting.
func (s *Store) addOrigin(o Origin, digests []fetcher.Digest) error {
	var fresh []fetcher.Digest
	for _, d := range digests {
		if !s.CameThrough(d, o) {
			fresh = append(fresh, d)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	path := s.originPath(o)
	if err := s.mkdir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("record what came through %s: %w", o.Repo, s.explain(err))
	}
	s.mu.RLock()
	torn := s.tornOrigins[o]
	s.mu.RUnlock()
	var err error
	if torn {
		// What an append that failed left behind may be half a line, or bytes that
		// will not reach the disk.
		err = s.replace(path, originLines(append(s.cameThrough(o), fresh...)), privateFile)
	} else {
		err = s.disk.Append(path, originLines(fresh), privateFile)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.tornOrigins[o] = true
		return fmt.Errorf("record what came through %s: %w", o.Repo, s.explain(err))
	}
	delete(s.tornOrigins, o)
	s.noteOrigin(o, fresh)
	return nil
}

// noteOrigin adds to memory what is on disk. The caller holds mu.
func (s *Store) noteOrigin(o Origin, digests []fetcher.Digest) {
	for _, d := range digests {
		if s.origins[d] == nil {
			s.origins[d] = map[Origin]bool{}
		}
		s.origins[d][o] = true
	}
}

// cameThrough lists every Digest whose bytes came through o.
func (s *Store) cameThrough(o Origin) []fetcher.Digest {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []fetcher.Digest
	for d, origins := range s.origins {
		if origins[o] {
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
	return s.eachOrigin(func(o Origin, path string) error {
		text, err := os.ReadFile(path)
		if absent(err) {
			s.lost(path, err)
			s.tornOrigins[o] = true
			return nil
		}
		if err != nil {
			return err
		}
		digests, whole := parseOrigins(text)
		s.mu.Lock()
		s.noteOrigin(o, digests)
		s.mu.Unlock()
		if whole {
			return nil
		}
		s.log.Warn("origins file has a torn line; to be replaced", zap.Stringer("repo", o.Repo))
		if err := s.explain(s.replace(path, originLines(digests), privateFile)); err != nil {
			s.tornOrigins[o] = true // before anything is added: a disk in trouble stops no start
			s.log.Warn("and could not be replaced yet", zap.Stringer("repo", o.Repo), zap.Error(err))
		}
		return nil
	})
}

// eachOrigin calls do for every origins file.
func (s *Store) eachOrigin(do func(o Origin, path string) error) error {
	for _, kind := range []fetcher.Kind{fetcher.Dataset, fetcher.Model} {
		entries, err := os.ReadDir(s.path(originsDir, string(kind)))
		switch {
		case absent(err):
			s.lost(s.path(originsDir, string(kind)), err)
			continue
		case err != nil:
			return err
		}
		for _, e := range entries {
			path := s.path(originsDir, string(kind), e.Name())
			o, err := unflatOrigin(kind, e.Name())
			if err != nil {
				s.unknown(path)
				continue
			}
			if err := do(o, path); err != nil {
				return err
			}
		}
	}
	return nil
}
