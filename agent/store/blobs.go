package store

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
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

// Origins returns what the bytes of d really came through, in order of name. It may
// name some for a Blob that is not here.
func (s *Store) Origins(d fetcher.Digest) []Origin {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(s.origins[d]), func(a, b Origin) int {
		return cmp.Or(strings.Compare(a.Repo.String(), b.Repo.String()), strings.Compare(a.Authority, b.Authority), strings.Compare(a.ID, b.ID))
	})
}

// CameThrough reports whether the bytes of d really came through o.
func (s *Store) CameThrough(d fetcher.Digest, o Origin) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.origins[d][o]
}

func (s *Store) blobPath(d fetcher.Digest) string { return s.path(blobsDir, digestPath(d)) }
func (s *Store) sumsPath(d fetcher.Digest) string { return s.path(sumsDir, digestPath(d)) }

// digestPath returns "<algo>/<aa>/<hex>".
func digestPath(d fetcher.Digest) string {
	return string(d.Algorithm()) + "/" + d.Hex()[:2] + "/" + d.Hex()
}
