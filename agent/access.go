package agent

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// access remembers who was proved to read what. Anonymous proofs are kept with the
// Repo's record in the store, since they hold for everyone and outlive a restart;
// a credential's proofs are kept in memory alone, by a keyed hash of the token.
type access struct {
	store      *store.Store
	publicFor  time.Duration
	proofFor   time.Duration
	proofGrace time.Duration
	key        [32]byte // of this process: the hashes mean nothing outside it

	mu     sync.Mutex // guards proofs
	proofs map[proofKey]time.Time
}

type proofKey struct {
	credential [sha256.Size]byte
	repo       fetcher.Repo
}

func newAccess(cfg Config) *access {
	a := &access{
		store:      cfg.Store,
		publicFor:  cfg.PublicFor,
		proofFor:   cfg.ProofFor,
		proofGrace: cfg.ProofGrace,
		proofs:     map[proofKey]time.Time{},
	}
	rand.Read(a.key[:]) // never fails (crypto/rand)
	return a
}

func (a *access) proofKey(cred fetcher.Secret, repo fetcher.Repo) proofKey {
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write([]byte(cred.Reveal()))
	return proofKey{[sha256.Size]byte(mac.Sum(nil)), repo}
}

// within reports whether at was no longer than d ago. A time to come is a clock's
// mistake, and counts as long ago.
func within(at time.Time, d time.Duration) bool {
	age := time.Since(at)
	return age >= 0 && age <= d
}

// public reports whether rec's anonymous proof is fresh. With unreachable, the Hub
// could not be asked, and an old proof is as good as a fresh one.
func (a *access) public(rec store.RepoRecord, unreachable bool) bool {
	return !rec.PublicAt.IsZero() && (unreachable || within(rec.PublicAt, a.publicFor))
}

// proved reports whether cred's own proof for repo is fresh; with unreachable it
// may be older by proofGrace.
func (a *access) proved(cred fetcher.Secret, repo fetcher.Repo, unreachable bool) bool {
	if cred.IsZero() {
		return false
	}
	limit := a.proofFor
	if unreachable {
		limit += a.proofGrace
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.proofs[a.proofKey(cred, repo)]
	return ok && within(at, limit)
}

// grant records that cred (anonymous if zero) was let through to repo's content.
func (a *access) grant(cred fetcher.Secret, repo fetcher.Repo) error {
	if cred.IsZero() {
		return a.store.SetPublic(repo, time.Now())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proofs[a.proofKey(cred, repo)] = time.Now()
	return nil
}

// withdraw records that cred (anonymous if zero) was turned away.
func (a *access) withdraw(cred fetcher.Secret, repo fetcher.Repo) error {
	if !cred.IsZero() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.proofs, a.proofKey(cred, repo))
		return nil
	}
	rec, err := a.store.Repo(repo)
	if err != nil || rec.PublicAt.IsZero() {
		return err
	}
	return a.store.SetPublic(repo, time.Time{})
}

// prune drops proofs that can no longer count.
func (a *access) prune(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, at := range a.proofs {
		if now.Sub(at) > a.proofFor+a.proofGrace {
			delete(a.proofs, k)
		}
	}
}

// mayUse reports whether a Blob's bytes may be used for repo without reading them
// again: they came through repo itself, or through a Repo that everyone may read.
// A Digest that repo merely claims is no proof that its readers may have the bytes.
func (a *access) mayUse(d fetcher.Digest, repo fetcher.Repo) (bool, error) {
	if a.store.CameThrough(d, repo) {
		return true, nil
	}
	for _, origin := range a.store.Origins(d) {
		rec, err := a.store.Repo(origin)
		if err != nil {
			return false, err
		}
		if a.public(rec, false) {
			return true, nil
		}
	}
	return false, nil
}
