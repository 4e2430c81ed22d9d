package hub

import (
	"errors"
	"fmt"
	"net/http"
)

// visibility is who may see a repository and read its files.
type visibility int

const (
	public  visibility = iota
	private            // its readers see it, for others it does not exist
	gated              // anyone lists it, its readers read it
)

// Public lets anyone read repo, as at first.
func (h *Hub) Public(repo string) { h.restrict(repo, public, nil) }

// Private lets only these tokens see repo.
func (h *Hub) Private(repo string, tokens ...string) { h.restrict(repo, private, tokens) }

// Gated lets anyone list repo, and only these tokens read its files.
func (h *Hub) Gated(repo string, tokens ...string) { h.restrict(repo, gated, tokens) }

// Accounts makes tokens valid, each that of an account which may read what is public.
// A token that was named nowhere is refused everywhere.
func (h *Hub) Accounts(tokens ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range tokens {
		h.tokens[t] = true
	}
}

// Revoke makes token one that is refused everywhere, until it is named again.
func (h *Hub) Revoke(token string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.tokens, token)
}

func (h *Hub) restrict(repo string, v visibility, tokens []string) {
	h.Accounts(tokens...)
	readers := map[string]bool{}
	for _, t := range tokens {
		readers[t] = true
	}
	r := h.repository(repo)
	r.change(func() { r.visible, r.readers = v, readers })
}

// access is what token may do with r.
func (r *repository) access(token string) (v visibility, reader bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.visible, r.readers[token]
}

func (h *Hub) valid(token string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tokens[token]
}

// admit reports whether the caller may have an answer of hfd, or refuses.
func (h *Hub) admit(w http.ResponseWriter, c *call) bool {
	visible, reader := c.repo.access(c.token)
	switch {
	case c.token != "" && !h.valid(c.token):
		unauthorized(w, "Invalid credentials in Authorization header")
	case visible == private && !reader:
		noRepository(w, c.token)
	case visible == gated && !reader && (c.verb == "resolve" || c.verb == "auth-check"):
		status := http.StatusForbidden
		if c.token == "" {
			status = http.StatusUnauthorized
		}
		fail(w, status, "GatedRepo", fmt.Sprintf("Access to %s is restricted and you are not in the authorized list.", c.target.repo))
	default:
		return true
	}
	return false
}

// authCheck answers GET /api/{models|datasets}/{repo}/auth-check, which hfd does not
// have, for a caller who was admitted.
func (h *Hub) authCheck(w http.ResponseWriter, r *http.Request, c *call) {
	_, err := h.hfd.commit(r.Context(), c.target.repo, c.rev)
	switch {
	case errors.Is(err, errNoRepo):
		noRepository(w, c.token)
	case err != nil:
		fail(w, http.StatusBadGateway, "", err.Error())
	default:
		fmt.Fprint(w, "OK")
	}
}
