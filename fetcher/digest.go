package fetcher

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/pjbgf/sha1cd"
)

// Algorithm names how a Digest is computed.
type Algorithm string

// The two algorithms that the Hub's manifests use.
const (
	// SHA256 is the plain SHA-256 of the content: LFS and Xet files.
	SHA256 Algorithm = "sha256"
	// GitBlobSHA1 is git's object name, SHA-1 over "blob <size>\0" and the
	// content: files kept in git itself.
	GitBlobSHA1 Algorithm = "git-blob-sha1"
)

var sumLength = map[Algorithm]int{SHA256: 64, GitBlobSHA1: 40}

// Digest names verified content: an algorithm and a sum in lower-case hex.
// Digest is comparable. The zero Digest names nothing.
type Digest struct {
	alg Algorithm
	sum string
}

// NewDigest makes a Digest of an algorithm and its sum in lower-case hex.
func NewDigest(alg Algorithm, sum string) (Digest, error) {
	n, ok := sumLength[alg]
	if !ok {
		return Digest{}, fmt.Errorf("digest algorithm %q: must be %s or %s", alg, SHA256, GitBlobSHA1)
	}
	if !isHex(sum, n) {
		return Digest{}, fmt.Errorf("%s digest %q: must be %d lower-case hex digits", alg, sum, n)
	}
	return Digest{alg, sum}, nil
}

// ParseDigest reads what String returns.
func ParseDigest(s string) (Digest, error) {
	alg, sum, _ := strings.Cut(s, ":")
	return NewDigest(Algorithm(alg), sum)
}

// Algorithm returns how the sum is computed.
func (d Digest) Algorithm() Algorithm { return d.alg }

// Hex returns the sum in lower-case hex: what the Hub uses as ETag.
func (d Digest) Hex() string { return d.sum }

// IsZero reports whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns "algorithm:hex".
func (d Digest) String() string { return string(d.alg) + ":" + d.sum }

// MarshalText returns String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what ParseDigest reads.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}

// ErrCollision says that content was built to collide with other content under
// SHA-1 (the detection is git's own, sha1dc).
var ErrCollision = errors.New("content is a SHA-1 collision attack")

// Hasher computes the Digest of one file's content as it arrives in order.
type Hasher struct {
	alg Algorithm
	h   hash.Hash
}

// NewHasher returns a Hasher for content of size bytes; git blob names cover the
// size, so it must be known first.
func NewHasher(alg Algorithm, size int64) *Hasher {
	if alg == GitBlobSHA1 {
		h := sha1cd.New()
		fmt.Fprintf(h, "blob %d\x00", size)
		return &Hasher{alg, h}
	}
	return &Hasher{alg, sha256.New()}
}

// Write adds content; it never fails.
func (h *Hasher) Write(p []byte) (int, error) { return h.h.Write(p) }

// Digest returns the Digest of what was written, or ErrCollision.
func (h *Hasher) Digest() (Digest, error) {
	if cr, ok := h.h.(sha1cd.CollisionResistantHash); ok {
		sum, collision := cr.CollisionResistantSum(nil)
		if collision {
			return Digest{}, ErrCollision
		}
		return Digest{h.alg, hex.EncodeToString(sum)}, nil
	}
	return Digest{h.alg, hex.EncodeToString(h.h.Sum(nil))}, nil
}
