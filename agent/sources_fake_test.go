package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/ballast-csi/ballast/fetcher"
)

// Shelf is a Source that keeps files in memory, and may be in trouble.
type Shelf struct {
	name string

	mu      sync.Mutex // guards what follows
	files   map[string][]byte
	trouble error
	asked   []string // the paths of which files were opened
}

// NewShelf makes a Shelf that has files, by path, whatever the Revision.
func NewShelf(name string, files map[string][]byte) *Shelf { return &Shelf{name: name, files: files} }

func (s *Shelf) Name() string { return s.name }

// Trouble has every file meet err, until it is nil again.
func (s *Shelf) Trouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = err
}

// Asked returns the paths that were asked for since.
func (s *Shelf) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *Shelf) Open(_ context.Context, _ fetcher.Revision, f fetcher.File, _ fetcher.Secret) (fetcher.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, f.Path.String())
	data, ok := s.files[f.Path.String()]
	switch {
	case s.trouble != nil:
		return nil, fmt.Errorf("open %s at %s: %w", f.Path, s.name, s.trouble)
	case !ok:
		return nil, fmt.Errorf("%s: %w", f.Path, fetcher.ErrAbsent)
	}
	return shelved(data), nil
}

type shelved []byte

func (s shelved) ReadRange(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s[off : off+n])), nil
}

func (shelved) Close() error { return nil }
