package agent

import (
	"context"
	"sync"
)

// keyedMutex is a mutex a key; waiting for one ends with a context. The zero value is
// ready.
type keyedMutex[K comparable] struct {
	mu   sync.Mutex // guards held
	held map[K]*holder
}

type holder struct {
	token chan struct{} // holds one element while the key is free
	users int           // those who hold the key or wait for it
}

// lock waits for key. unlock must be called once, and only if err is nil.
func (k *keyedMutex[K]) lock(ctx context.Context, key K) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	if k.held == nil {
		k.held = map[K]*holder{}
	}
	h := k.held[key]
	if h == nil {
		h = &holder{token: make(chan struct{}, 1)}
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
		return func() { h.token <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
