package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/fetcher"
)

// What a caller must tell apart. Each comes wrapped with the repository, the file or
// the directory concerned.
var (
	// ErrNoSpace: the file system (or a quota) has no room for the bytes now. Time, or
	// who frees some, can mend it.
	ErrNoSpace = errors.New("no space in the cache")
	// ErrTooLarge: the file would not fit if the disk held nothing else.
	ErrTooLarge = errors.New("the file is larger than the disk of the cache can hold")
	// ErrBusy: the same bytes are already on their way in through the same Origin.
	ErrBusy = errors.New("ingest is in use")
	// ErrReplaced: the Repo's name is another one's by now. Who asks again learns of that.
	ErrReplaced = errors.New("the repository was replaced by another of its name")
	// ErrLocked: another process has this cache directory open.
	ErrLocked = errors.New("cache is in use by another process")
	// ErrPinned: the Volume is pinned to another View.
	ErrPinned = errors.New("volume is pinned to another view")
	// ErrClosed: the Store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrUnknownState: the disk failed in the middle of a change and of undoing it, so
	// what is in memory may differ from what a restart would find. Nothing more is
	// changed; the process should end and recover from disk.
	ErrUnknownState = errors.New("state of the cache on disk is unknown")
)

// Layout version on disk; a directory that says otherwise is refused.
const version = "1"

// The entries of the cache directory.
const (
	versionFile  = "version"
	lockFile     = "lock"
	blobsDir     = "blobs"
	sumsDir      = "sums"
	ingestsDir   = "ingests"
	manifestsDir = "manifests"
	refsDir      = "refs"
	originsDir   = "origins"
	viewsDir     = "views"
	pinsDir      = "pins"
	// EmptyDir is an empty directory: an overlay of lower layers needs two.
	EmptyDir = "empty"
)

// privateDirs is every directory of the cache but the one that pods see.
var privateDirs = []string{blobsDir, sumsDir, ingestsDir, manifestsDir, refsDir, originsDir, viewsDir, pinsDir}

// Modes. Only what a pod sees through its mount is for everyone; no other user of the
// node has business below the cache directory.
const (
	privateDir  = 0o700
	privateFile = 0o600
	sharedDir   = 0o755 // the cache directory itself, and what is mounted
	blobMode    = 0o444
	ingestMode  = 0o600
)

// Config says where a Store is.
type Config struct {
	Dir string      // the cache directory, made if absent; all of it in one file system
	Log *zap.Logger // what recovery found, and records that cannot be read; nil logs nothing
	// Reserve is how many bytes of the file system no Ingest, no copy of a Blob, no Manifest
	// and no View of more than some thousand entries may take: what is here can
	// still be pinned when a download finds no room, and the node has room to live. 0 is
	// ReservePercent of the file system; a negative one is none.
	Reserve int64
	// ReservePercent is from 0, which stands for 5, to 100. Where the cache shares the file
	// system of kubelet it should be more than 15, where kubelet begins to remove images
	// (imagefs.available); at 10 it evicts pods (nodefs.available).
	ReservePercent float64
}

// Store is an open cache directory. It is safe for concurrent use.
type Store struct {
	dir            string
	log            *zap.Logger
	disk           durable.Disk
	reserve        int64   // Config.Reserve
	reservePercent float64 // Config.ReservePercent
	lock           *os.File

	// admitting is held by who gives a Blob its name: from looking whether it exists
	// to its directory being synced. Origins are appended under it.
	admitting sync.Mutex
	// linking is held by who makes or removes a Pin, and by who decides that a View or a
	// Blob is unused, from looking to having removed it: what is unused stays so until
	// the lock is released. A View is assembled without it, so that no Pin waits for that,
	// but is entered in assembling under it; while there is one, no Blob is unused. It is
	// taken before mu, never with admitting.
	linking sync.Mutex
	// claiming is held by who opens an Ingest, until it is in busy, and by who removes
	// one that is not.
	claiming sync.Mutex
	// allocating is held from finding that there is room for bytes to taking it.
	allocating sync.Mutex
	// records is held by who changes a Repo's record.
	records sync.Mutex
	// listings is held by who records a Manifest: that takes so much memory, and so long,
	// that it is done one at a time, and holds up no other record.
	listings sync.Mutex

	assemblies sync.WaitGroup // Close waits for them

	making sync.Mutex      // guards made, and is held while a directory is made
	made   map[string]bool // private directories known to be durable

	mu sync.RWMutex // guards everything below; nobody waits for the disk under it
	// blobs holds the size in bytes of each Blob whose name is durable.
	blobs   map[fetcher.Digest]int64
	origins map[fetcher.Digest]map[Origin]bool
	// tornOrigins are those whose file must be replaced, not appended to.
	tornOrigins map[Origin]bool
	views       map[string]viewInfo // by id; each is whole and its name durable
	// assembling are the Views being made, by id; the channel is closed when that ends.
	assembling map[string]chan struct{}
	pins       map[string]Pin // by Volume.Pin()
	// unreadablePins are names of Pins whose content is lost: while there is one,
	// every View counts as pinned.
	unreadablePins map[string]bool
	busy           map[string]bool // names of open Ingests
	failed         error           // why nothing may be changed any more
}

// Open makes or recovers the cache in c.Dir and locks it. It refuses a directory
// that another process has open (ErrLocked) or whose layout it does not know.
func Open(c Config) (*Store, error) { return open(c, durable.OS{}) }

func open(c Config, ops durable.Ops) (_ *Store, err error) {
	if c.Dir == "" {
		return nil, errors.New("open cache: no directory given")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	s := &Store{
		dir: dir, log: c.Log, disk: durable.New(ops), reserve: c.Reserve, reservePercent: cmp.Or(c.ReservePercent, 5),
		blobs:          map[fetcher.Digest]int64{},
		origins:        map[fetcher.Digest]map[Origin]bool{},
		tornOrigins:    map[Origin]bool{},
		views:          map[string]viewInfo{},
		assembling:     map[string]chan struct{}{},
		pins:           map[string]Pin{},
		unreadablePins: map[string]bool{},
		busy:           map[string]bool{},
		made:           map[string]bool{},
	}
	if err := s.init(); err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, s.explain(err))
	}
	if err := s.recover(); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("open cache %s: %w", dir, s.explain(err))
	}
	return s, nil
}

// Close lets another process open the cache. Open Ingests must be closed first, and
// other calls have returned; what is mounted stays as it is.
func (s *Store) Close() error {
	s.assemblies.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.failed, ErrClosed) {
		return nil
	}
	s.failed = ErrClosed
	return s.lock.Close()
}

// Dir returns the cache directory, as an absolute path.
func (s *Store) Dir() string { return s.dir }

// usable reports why nothing may be changed any more, if so.
func (s *Store) usable() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failed
}

// fail stops all further changes: undoing a failed one failed too.
func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = fmt.Errorf("%w: %w", ErrUnknownState, err)
	}
	return s.failed
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// mkdir makes a private directory below the cache directory, durably.
func (s *Store) mkdir(path string) error {
	s.making.Lock()
	defer s.making.Unlock()
	if s.made[path] {
		return nil
	}
	if err := s.disk.MkdirAll(path, privateDir); err != nil {
		return err
	}
	s.made[path] = true
	return nil
}
