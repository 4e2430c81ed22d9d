package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"weak"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// manifests are those in the store, each read once for all who hold it at a time: one
// of a million files takes seconds to read and hundreds of megabytes. Nobody changes what
// it returns. The zero value needs a store.
type manifests struct {
	store   *store.Store
	reading keyedMutex[manifestKey]

	mu     sync.Mutex // guards what follows
	held   map[manifestKey]heldManifest
	latest *fetcher.Manifest // so that who asks page by page finds it again
}

type heldManifest struct {
	weak.Pointer[fetcher.Manifest]
	listing string // of a local Authority's
}

type manifestKey struct {
	origin store.Origin
	commit fetcher.Commit
}

// keptFiles bounds the Manifest that is kept for whoever asks next, in files.
const keptFiles = 100_000

// put is store.PutManifest, but what there is no room for is kept in memory alone: it can
// be listed again.
func (m *manifests) put(o store.Origin, listed *fetcher.Manifest) error {
	m.keep(manifestKey{o, listed.Revision.Commit}, listed)
	err := m.store.PutManifest(o, listed)
	if errors.Is(err, store.ErrNoSpace) && !errors.Is(err, store.ErrUnknownState) {
		return nil
	}
	return err
}

// get is store.Manifest.
func (m *manifests) get(ctx context.Context, o store.Origin, c fetcher.Commit) (*fetcher.Manifest, error) {
	listed, _, err := m.look(ctx, o, c)
	return listed, err
}

// of is get, of a local Authority's: what is not listing is not there.
func (m *manifests) of(ctx context.Context, o store.Origin, c fetcher.Commit, listing string) (*fetcher.Manifest, error) {
	listed, is, err := m.look(ctx, o, c)
	if err == nil && is != listing {
		err = fmt.Errorf("manifest of %s: %w: %s listed it anew", listed.Revision, fs.ErrNotExist, o.Authority)
	}
	return listed, err
}

// look returns the Manifest, and what a local Authority's is called.
func (m *manifests) look(ctx context.Context, o store.Origin, c fetcher.Commit) (listed *fetcher.Manifest, listing string, err error) {
	key := manifestKey{o, c}
	unlock, err := m.reading.lock(ctx, key)
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	m.mu.Lock()
	held := m.held[key]
	m.mu.Unlock()
	if shared := held.Value(); shared != nil {
		return shared, held.listing, nil
	}
	read, err := m.store.Manifest(o, c)
	if err != nil {
		return nil, "", err
	}
	return read, m.keep(key, read), nil
}

// keep lets others share listed. It returns what a local Authority's is called.
func (m *manifests) keep(key manifestKey, listed *fetcher.Manifest) (listing string) {
	if key.origin.Local() {
		listing = store.Listing(listed)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, p := range m.held {
		if p.Value() == nil {
			delete(m.held, k)
		}
	}
	if m.held == nil {
		m.held = map[manifestKey]heldManifest{}
	}
	m.held[key] = heldManifest{weak.Make(listed), listing}
	if m.latest = nil; len(listed.Files) <= keptFiles {
		m.latest = listed
	}
	return listing
}
