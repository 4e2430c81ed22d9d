package fetcher

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/pjbgf/sha1cd"
)

// The first 320 bytes of https://shattered.io/static/shattered-1.pdf: the blocks
// that collide under SHA-1 are among them.
const shattered = `JVBERi0xLjMKJeLjz9MKCgoxIDAgb2JqCjw8L1dpZHRoIDIgMCBSL0hlaWdodCAzIDAgUi9UeXBlIDQgMCBSL1N1YnR5cGUg
NSAwIFIvRmlsdGVyIDYgMCBSL0NvbG9yU3BhY2UgNyAwIFIvTGVuZ3RoIDggMCBSL0JpdHNQZXJDb21wb25lbnQgOD4+CnN0cmVhbQr/2P/+ACRT
SEEtMSBpcyBkZWFkISEhISGFL+wJIzl1nDmxocY8TJfh//4Bc0bckWa2fhGPApq2IbJWD/nKZ8yox/hbqEx5AwwrPeIY+G2zqQkB1d9FwU8m/t+z
3DjpasIv571yjw5FvOBG0jxXD+sUE5i7VS71oKgr4zH+pIA3uLXXHw4zLt+TrDUA603cDezBqGR5DHgsdiFWYN0wl5HQa9CvP5jNpLxGKbE=`

// No collision of two git blobs has been published, and the header that git puts
// before content takes SHAttered's blocks apart. So they are given to the hash
// that a Hasher uses, without the header; what follows is the Hasher's own way.
func TestCollisionAttackIsRefused(t *testing.T) {
	attack, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(shattered, "\n", ""))
	if err != nil || len(attack) != 320 {
		t.Fatalf("%d bytes, %v", len(attack), err)
	}
	h := NewHasher(GitBlobSHA1, int64(len(attack)))
	bare, ok := h.h.(sha1cd.CollisionResistantHash)
	if !ok {
		t.Fatal("git blobs are hashed without collision detection")
	}
	bare.Reset() // forgets the header
	h.Write(attack)
	if d, err := h.Digest(); !errors.Is(err, ErrCollision) || !d.IsZero() {
		t.Errorf("%s, %v", d, err)
	}
	bare.Reset()
	attack[200] ^= 1
	h.Write(attack)
	if d, err := h.Digest(); err != nil || d.IsZero() {
		t.Errorf("without the attack: %s, %v", d, err)
	}
}
