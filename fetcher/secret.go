package fetcher

import (
	"fmt"
	"io"
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
