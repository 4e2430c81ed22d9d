package modelexpress

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	// tokenAge is how long a token is used without reading its file again, whatever the
	// file system says of it.
	tokenAge = time.Minute
	// maxTokenFile bounds what is read, in bytes; fetcher.ParseSecret takes less.
	maxTokenFile = 64 << 10
)

// token is the bearer token in a file, which kubelet replaces now and then. It is gRPC's
// credentials.PerRPCCredentials.
type token struct {
	file string
	log  *zap.Logger

	mu    sync.Mutex // guards all below
	value fetcher.Secret
	seen  os.FileInfo // of the file that value is from; nil: it is to be read
	read  time.Time
	told  bool // that there is none
}

func newToken(file string, log *zap.Logger) *token { return &token{file: file, log: log} }

// GetRequestMetadata returns the header that carries the token, or none.
func (t *token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if value := t.current(); !value.IsZero() {
		return map[string]string{"authorization": "Bearer " + value.Reveal()}, nil
	}
	return nil, nil
}

// RequireTransportSecurity returns false: the server has no TLS (Config.TokenFile).
func (t *token) RequireTransportSecurity() bool { return false }

// forget has the file read again.
func (t *token) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = nil
}

// current returns the token, read anew if the file is another one or was read a while ago.
func (t *token) current() fetcher.Secret {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.file)
	if err == nil && t.seen != nil && os.SameFile(info, t.seen) && info.ModTime().Equal(t.seen.ModTime()) &&
		info.Size() == t.seen.Size() && time.Since(t.read) < tokenAge {
		return t.value
	}
	value := fetcher.Secret{}
	if err == nil {
		value, err = readToken(t.file)
	}
	if err != nil {
		if !t.told {
			t.log.Warn("no token for Model Express: requests are sent without one", zap.String("file", t.file), zap.Error(err))
		}
		t.told, t.value, t.seen = true, fetcher.Secret{}, nil
		return t.value
	}
	t.told, t.value, t.seen, t.read = false, value, info, time.Now()
	return t.value
}

func readToken(file string) (fetcher.Secret, error) {
	f, err := os.Open(file)
	if err != nil {
		return fetcher.Secret{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return fetcher.Secret{}, err
	}
	return fetcher.ParseSecret(string(text))
}
