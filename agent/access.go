package agent

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
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

	// publishing is held by who records whether a Repo is public, which waits for the disk:
	// from looking for a denial, or telling of one, to its record. It is taken before mu.
	publishing sync.Mutex

	mu     sync.Mutex // guards what follows
	proofs map[proofKey]proof
	// asking is what is being asked now. Nothing is kept of a credential that was turned
	// away but for these: anybody may invent any number of them.
	asking map[proofKey]*asking
}

// asking is a credential (anonymous if zero) and a Repo about which questions are under
// way, and when the one was last turned away from the other meanwhile: an answer to a
// question asked before that proves nothing any more.
type asking struct {
	questions  int
	turnedAway time.Time
}

// proof is a credential's own.
type proof struct {
	origin store.Origin
	at     time.Time
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
		proofs:     map[proofKey]proof{},
		asking:     map[proofKey]*asking{},
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

// proved reports whether cred's own proof for o is fresh; with unreachable it may be older
// by proofGrace.
func (a *access) proved(cred fetcher.Secret, o store.Origin, unreachable bool) bool {
	if cred.IsZero() {
		return false
	}
	limit := a.proofFor
	if unreachable {
		limit += a.proofGrace
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.proofs[a.proofKey(cred, o.Repo)]
	return ok && p.origin == o && within(p.at, limit)
}

// once reports whether there is a proof of cred for o, be it just too old to count: prune
// drops it then. Longer would be worse than the question it saves, since who only renews
// does not ask whose name it is.
func (a *access) once(cred fetcher.Secret, o store.Origin) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.proofs[a.proofKey(cred, o.Repo)].origin == o
}

// ask says that cred (anonymous if zero) is asked with about repo, until answered is
// called. grant must come between.
func (a *access) ask(cred fetcher.Secret, repo fetcher.Repo) (answered func()) {
	key := a.proofKey(cred, repo)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.asking[key]
	if now == nil {
		now = &asking{}
		a.asking[key] = now
	}
	now.questions++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if now.questions--; now.questions == 0 {
			delete(a.asking, key)
		}
	}
}

// errWithdrawn: the credential was turned away while its question was being answered.
var errWithdrawn = fmt.Errorf("access was withdrawn meanwhile: %w", fetcher.ErrNotFound)

// grant records that cred (anonymous if zero) was let through to o's content, by the
// answer to a question that was asked at a given time. It returns errWithdrawn if cred
// was turned away since, and ErrReplaced if the name is another Origin's by now.
func (a *access) grant(cred fetcher.Secret, o store.Origin, asked time.Time) error {
	if cred.IsZero() {
		a.publishing.Lock()
		defer a.publishing.Unlock()
	} else if rec, err := a.store.Repo(o.Repo); err != nil || rec.ID != o.ID {
		return cmp.Or(err, fmt.Errorf("%s: %w", o.Repo, store.ErrReplaced))
	}
	key := a.proofKey(cred, o.Repo)
	a.mu.Lock()
	now := a.asking[key]
	still := now != nil && now.turnedAway.Before(asked)
	if still && !cred.IsZero() {
		a.proofs[key] = proof{o, asked}
	}
	a.mu.Unlock()
	switch {
	case !still:
		return fmt.Errorf("%s: %w", o.Repo, errWithdrawn)
	case cred.IsZero():
		return a.store.SetPublic(o, asked)
	}
	return nil
}

// withdraw records that cred (anonymous if zero) was turned away.
func (a *access) withdraw(cred fetcher.Secret, repo fetcher.Repo) error {
	if cred.IsZero() {
		a.publishing.Lock()
		defer a.publishing.Unlock()
	}
	key := a.proofKey(cred, repo)
	a.mu.Lock()
	if now := a.asking[key]; now != nil {
		now.turnedAway = time.Now()
	}
	delete(a.proofs, key)
	a.mu.Unlock()
	if !cred.IsZero() {
		return nil
	}
	rec, err := a.store.Repo(repo)
	if err != nil || rec.PublicAt.IsZero() {
		return err
	}
	return a.store.SetPublic(store.Origin{Repo: repo, ID: rec.ID}, time.Time{})
}

// prune drops what can no longer count.
func (a *access) prune(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, p := range a.proofs {
		if now.Sub(p.at) > a.proofFor+a.proofGrace {
			delete(a.proofs, k)
		}
	}
}

// mayUse reports whether a Blob's bytes may be used for o without reading them again:
// they came through o itself, or through one that everyone may read and that still has
// its name. A Digest that o merely claims is no proof that its readers may have the bytes.
func (a *access) mayUse(d fetcher.Digest, o store.Origin) (bool, error) {
	if a.store.CameThrough(d, o) {
		return true, nil
	}
	for _, other := range a.store.Origins(d) {
		rec, err := a.store.Repo(other.Repo)
		if err != nil {
			return false, err
		}
		if !other.Local() && rec.ID == other.ID && a.public(rec, false) {
			return true, nil
		}
	}
	return false, nil
}
