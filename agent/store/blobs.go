package store

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// HasBlob reports whether the bytes of d are here, verified and durable.
func (s *Store) HasBlob(d fetcher.Digest) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.blobs[d]
	return ok
}

// OpenBlob opens the Blob of d for reading. If there is none, the error matches
// fs.ErrNotExist.
func (s *Store) OpenBlob(d fetcher.Digest) (*os.File, error) {
	if !s.HasBlob(d) {
		return nil, fmt.Errorf("open blob %s: %w", d, fs.ErrNotExist)
	}
	f, err := os.OpenFile(s.blobPath(d), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return f, nil
}

// Origins returns the Repos that the bytes of d really came through, in order of
// name. It may name some for a Blob that is not here.
func (s *Store) Origins(d fetcher.Digest) []fetcher.Repo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	repos := make([]fetcher.Repo, 0, len(s.origins[d]))
	for r := range s.origins[d] {
		repos = append(repos, r)
	}
	slices.SortFunc(repos, func(a, b fetcher.Repo) int { return strings.Compare(a.String(), b.String()) })
	return repos
}

// CameThrough reports whether the bytes of d really came through r.
func (s *Store) CameThrough(d fetcher.Digest, r fetcher.Repo) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.origins[d][r]
}

func (s *Store) blobPath(d fetcher.Digest) string { return s.path(blobsDir, digestPath(d)) }
func (s *Store) sumsPath(d fetcher.Digest) string { return s.path(sumsDir, digestPath(d)) }

// digestPath returns "<algo>/<aa>/<hex>".
func digestPath(d fetcher.Digest) string {
	return string(d.Algorithm()) + "/" + d.Hex()[:2] + "/" + d.Hex()
}
