package agent

import (
	"context"
	"sync"
)

// keyedMutex is a mutex a key; waiting for one ends with a context. Each key comes
// with a V for those who hold the lock, which lives while anyone holds it or waits
// for it. The zero value is ready.
type keyedMutex[K comparable, V any] struct {
	mu   sync.Mutex // guards held
	held map[K]*holder[V]
}

type holder[V any] struct {
	token chan struct{} // holds one element while the key is free
	users int           // those who hold the key or wait for it
	value V             // the holder's
}

// lock waits for key. unlock must be called once, and only if err is nil; value is
// the caller's until then.
func (k *keyedMutex[K, V]) lock(ctx context.Context, key K) (value *V, unlock func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[K]*holder[V]{}
	}
	h := k.held[key]
	if h == nil {
		h = &holder[V]{token: make(chan struct{}, 1)}
		h.token <- struct{}{}
		k.held[key] = h
	}
	h.users++
	k.mu.Unlock()

	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(k.held, key)
		}
	}
	select {
	case <-h.token:
		return &h.value, func() { h.token <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, nil, ctx.Err()
	}
}
