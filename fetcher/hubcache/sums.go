package hubcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// maxSums bounds how many files' sums are remembered.
const maxSums = 1 << 18

// fileID is a file as long as nobody writes to it.
type fileID struct {
	dev, ino          uint64
	size              int64 // bytes
	modified, changed unix.Timespec
}

func idOf(s *unix.Stat_t) fileID { return fileID{uint64(s.Dev), s.Ino, s.Size, s.Mtim, s.Ctim} }

// sums remembers what was hashed, so that a file is hashed once, and how far that came,
// so that one that takes longer than anybody waits is hashed at last.
type sums struct {
	turns chan struct{} // holds a token for each file being hashed

	mu    sync.Mutex // guards known
	known map[fileID]*sum
}

// sum is one file's.
type sum struct {
	turn   chan struct{} // holds a token while what follows is used: a lock that a context ends
	hasher *fetcher.Hasher
	hashed int64          // bytes that went into hasher
	digest fetcher.Digest // zero: not known yet
}

func newSums(atOnce int) *sums {
	return &sums{turns: make(chan struct{}, atOnce), known: map[fileID]*sum{}}
}

// of returns what is known of a file.
func (s *sums) of(id fileID) *sum {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.known[id]
	if found == nil {
		if len(s.known) >= maxSums {
			clear(s.known)
		}
		found = &sum{turn: make(chan struct{}, 1), hasher: fetcher.NewHasher(fetcher.SHA256, id.size)}
		s.known[id] = found
	}
	return found
}

// digest hashes f, unless it was hashed before. What it says of a file that is written
// to meanwhile is Unreachable: another try will find it at rest.
func (c *Cache) digest(ctx context.Context, what string, f *content) (fetcher.Digest, error) {
	id := idOf(&f.stat)
	s := c.sums.of(id)
	for _, turn := range []chan struct{}{s.turn, c.sums.turns} {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return fetcher.Digest{}, fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
	}
	if !s.digest.IsZero() {
		return s.digest, nil
	}
	o := &object{calls: c.calls, file: f.File, size: id.size, what: what + ": hash " + f.Name()}
	if err := s.feed(ctx, o); err != nil {
		return fetcher.Digest{}, err
	}
	now, err := do(ctx, c.calls, o.what, func() (stat unix.Stat_t, err error) {
		using := using(f.File, func(fd int) { err = unix.Fstat(fd, &stat) })
		if err = errors.Join(using, err); err != nil {
			err = unreachable("look at", f.Name(), err)
		}
		return stat, err
	}, nil)
	if err != nil {
		return fetcher.Digest{}, err
	}
	if idOf(&now) != id {
		return fetcher.Digest{}, &fetcher.UnreachableError{Err: fmt.Errorf("%s: it is being written to", o.what)}
	}
	d, err := s.hasher.Digest()
	if err != nil {
		return fetcher.Digest{}, fmt.Errorf("%s: %w", o.what, err)
	}
	s.digest, s.hasher = d, nil
	return d, nil
}

// feed hashes the rest of o.
func (s *sum) feed(ctx context.Context, o *object) error {
	if s.hashed == o.size {
		return nil
	}
	r, err := o.ReadRange(ctx, s.hashed, o.size-s.hashed)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(s.hasher, r)
	s.hashed += n
	return err
}
