package fetcher

// Secret is a Hub token, or "" for an anonymous request. It prints and marshals
// as "[redacted]"; only Reveal gives its value, to the one request that sends it.
type Secret struct{ value string }

const redacted = "[redacted]"

// NewSecret wraps a token.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the token itself.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether there is no token.
func (s Secret) IsZero() bool { return s.value == "" }

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]": %#v shows nothing either.
func (Secret) GoString() string { return redacted }

// MarshalText returns "[redacted]": JSON, YAML and log encoders show nothing.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
