package hubcache

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"go.uber.org/zap"
)

const (
	defaultName     = "pvc"
	defaultPatience = 30 * time.Second
)

// Config describes a cache directory.
type Config struct {
	// Name is the Source's and the Authority's. "": "pvc".
	Name string
	// Dir is an HF_HUB_CACHE, or an HF_HOME (whose cache is in hub/). It may be a link,
	// so whoever can write the directory that it is in says what the cache is.
	Dir string
	// Patience is how long one call of the file system may take. 0: 30 s.
	Patience time.Duration
	Log      *zap.Logger // nil: none
}

// Cache is a cache directory. It satisfies fetcher.Source and fetcher.Authority, keeps
// nothing open between calls, and is safe for concurrent use.
type Cache struct {
	name  string
	dir   string // absolute
	log   *zap.Logger
	calls *calls
	sums  *sums
}

// New checks cfg and returns a Cache. It does not look at the directory, which may not
// be mounted yet.
func New(cfg Config) (*Cache, error) {
	if cfg.Dir == "" {
		return nil, errors.New("hub cache: no directory")
	}
	if cfg.Patience < 0 {
		return nil, fmt.Errorf("hub cache %s: patience %s may not be negative", cfg.Dir, cfg.Patience)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("hub cache %s: %w", cfg.Dir, err)
	}
	if cfg.Name == "" {
		cfg.Name = defaultName
	}
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Cache{
		name: cfg.Name, dir: dir, log: cfg.Log.With(zap.String("source", cfg.Name)),
		calls: newCalls(cfg.Patience), sums: newSums(runtime.GOMAXPROCS(0)),
	}, nil
}

// Name is the Source's and the Authority's.
func (c *Cache) Name() string { return c.name }
