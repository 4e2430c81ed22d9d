package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/hubapi"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hubcache"
)

// sharedLibrary lets hubapi serve a cache directory: neither knows the other.
type sharedLibrary struct {
	cache *hubcache.Cache
	log   *zap.Logger
	token func() (fetcher.Secret, error) // the one that may read; nil: anybody may

	mu     sync.Mutex // guards what follows
	listed map[fetcher.Revision]listing
	files  int    // of all listings
	told   string // the last trouble that was logged
}

// listing is what a Revision had a moment ago. Each range of a file is a request of its
// own, and a directory without a tree is walked to list it.
type listing struct {
	*fetcher.Manifest
	at time.Time
}

const (
	// keepListing is how long a file that arrives in the directory may not be seen.
	keepListing = 10 * time.Second
	// keepFiles bounds the files of all listings that are kept.
	keepFiles = 200_000
)

func newSharedLibrary(cache *hubcache.Cache, token func() (fetcher.Secret, error), log *zap.Logger) *sharedLibrary {
	return &sharedLibrary{cache: cache, token: token, log: log, listed: map[fetcher.Revision]listing{}}
}

// tell logs trouble with the directory, which a client is not told: a download that is not
// complete, a volume that does not answer. The client asks again until that is over.
func (l *sharedLibrary) tell(err error) error {
	if !fetcher.Unreachable(err) {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := err.Error(); text != l.told {
		l.told = text
		l.log.Warn("the directory cannot be read now", zap.Error(err))
	}
	return err
}

// admit says who may read. Whom it turns away is told what the Hub tells of a private
// repository: a client does then what it would do there.
func (l *sharedLibrary) admit(who hubapi.Caller) error {
	if l.token == nil {
		return nil
	}
	want, err := l.token()
	switch {
	case err != nil:
		return fmt.Errorf("--token-file: %w", err)
	case who.Token.IsZero():
		return fetcher.ErrNotFound
	case subtle.ConstantTimeCompare([]byte(who.Token.Reveal()), []byte(want.Reveal())) != 1:
		return fetcher.ErrBadToken
	}
	return nil
}

func (l *sharedLibrary) Manifest(ctx context.Context, who hubapi.Caller, repo fetcher.Repo, ref fetcher.Ref) (*fetcher.Manifest, error) {
	if err := l.admit(who); err != nil {
		return nil, err
	}
	rev := fetcher.Revision{Repo: repo}
	rev.Commit, _ = ref.Commit()
	if m := l.kept(rev); m != nil { // of the zero Commit there is none
		return m, nil
	}
	found, err := l.cache.Resolve(ctx, repo, ref, fetcher.Secret{})
	if err != nil {
		return nil, l.tell(err)
	}
	rev.Commit = found.Commit
	if m := l.kept(rev); m != nil {
		return m, nil
	}
	m, err := l.cache.Manifest(ctx, rev, fetcher.Secret{})
	if err != nil {
		return nil, l.tell(err)
	}
	l.keep(m)
	return m, nil
}

// kept returns the listing of rev if it is recent.
func (l *sharedLibrary) kept(rev fetcher.Revision) *fetcher.Manifest {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found, ok := l.listed[rev]; ok && time.Since(found.at) < keepListing {
		return found.Manifest
	}
	return nil
}

func (l *sharedLibrary) keep(m *fetcher.Manifest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, ok := l.listed[m.Revision]; ok {
		l.files -= len(before.Files)
	}
	if l.files+len(m.Files) > keepFiles || len(l.listed) > keepFiles/100 {
		clear(l.listed)
		l.files = 0
	}
	l.listed[m.Revision] = listing{m, time.Now()}
	l.files += len(m.Files)
}

func (l *sharedLibrary) Refs(ctx context.Context, who hubapi.Caller, repo fetcher.Repo) (map[string]fetcher.Commit, error) {
	if err := l.admit(who); err != nil {
		return nil, err
	}
	refs, err := l.cache.Refs(ctx, repo)
	return refs, l.tell(err)
}

func (l *sharedLibrary) Open(ctx context.Context, who hubapi.Caller, rev fetcher.Revision, f fetcher.File) (io.ReadSeekCloser, error) {
	if err := l.admit(who); err != nil {
		return nil, err
	}
	file, err := l.cache.OpenFile(ctx, rev, f)
	if errors.Is(err, fetcher.ErrAbsent) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, l.tell(err) // not a nil file in an interface
	}
	return file, nil
}
