package fetcher

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unique"
)

// Secret is a Hub token, or "" for an anonymous request. It prints and marshals
// as "[redacted]"; only Reveal gives its value, to the one request that sends it.
// Secret is comparable; the zero Secret is NewSecret("").
type Secret struct {
	// A handle, not the string: fmt calls no method on an unexported field that
	// holds a Secret, and shows the handle's address.
	value unique.Handle[string]
}

const redacted = "[redacted]"

// NewSecret wraps a token.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{unique.Make(value)}
}

// maxToken bounds a token, in bytes. The Hub's own have some 40; OAuth's are longer.
const maxToken = 8 << 10

// ParseSecret reads a token that somebody wrote, dropping white space around it. What it
// returns can be a header's value. Its errors do not repeat the text.
func ParseSecret(text string) (Secret, error) {
	token := strings.TrimSpace(text)
	if len(token) > maxToken {
		return Secret{}, fmt.Errorf("the token is longer than %d bytes, as none is", maxToken)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Secret{}, errors.New("the token holds a character that no token has (a space, a line break, a control character or one outside ASCII)")
	}
	return NewSecret(token), nil
}

// Reveal returns the token itself.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.value.Value()
}

// IsZero reports whether there is no token.
func (s Secret) IsZero() bool { return s == Secret{} }

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]" whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText returns "[redacted]": JSON, YAML and log encoders show nothing.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
