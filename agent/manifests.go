package agent

import (
	"context"
	"errors"
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
	held   map[manifestKey]weak.Pointer[fetcher.Manifest]
	latest *fetcher.Manifest // so that who asks page by page finds it again
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
	m.mu.Lock()
	m.keep(manifestKey{o, listed.Revision.Commit}, listed)
	m.mu.Unlock()
	err := m.store.PutManifest(o, listed)
	if errors.Is(err, store.ErrNoSpace) && !errors.Is(err, store.ErrUnknownState) {
		return nil
	}
	return err
}

// get is store.Manifest.
func (m *manifests) get(ctx context.Context, o store.Origin, c fetcher.Commit) (*fetcher.Manifest, error) {
	key := manifestKey{o, c}
	unlock, err := m.reading.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m.mu.Lock()
	shared := m.held[key].Value()
	m.mu.Unlock()
	if shared != nil {
		return shared, nil
	}
	read, err := m.store.Manifest(o, c)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keep(key, read)
	return read, nil
}

// keep lets others share listed. m.mu is held.
func (m *manifests) keep(key manifestKey, listed *fetcher.Manifest) {
	for k, p := range m.held {
		if p.Value() == nil {
			delete(m.held, k)
		}
	}
	if m.held == nil {
		m.held = map[manifestKey]weak.Pointer[fetcher.Manifest]{}
	}
	m.held[key] = weak.Make(listed)
	if m.latest = nil; len(listed.Files) <= keptFiles {
		m.latest = listed
	}
}
