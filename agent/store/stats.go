package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Stats counts what is in the cache. Bytes are of distinct inodes, and what each of
// them counts is on the disk once.
type Stats struct {
	Blobs       int
	BlobBytes   int64
	CopiedBytes int64 // of View entries that could not be links
	Ingests     int
	IngestBytes int64 // allocated
	Views       int
	Pins        int // UnreadablePins included
	// UnreadablePins is how many Pins keep every View from eviction.
	UnreadablePins int
}

// Bytes returns what the cache holds, in bytes.
func (st Stats) Bytes() int64 { return st.BlobBytes + st.CopiedBytes + st.IngestBytes }

// Stats counts what is in the cache now.
func (s *Store) Stats() Stats {
	var st Stats
	s.mu.RLock()
	st.Blobs, st.Views, st.UnreadablePins = len(s.blobs), len(s.views), len(s.unreadablePins)
	st.Pins = len(s.pins) + st.UnreadablePins
	for _, size := range s.blobs {
		st.BlobBytes += size
	}
	for _, v := range s.views {
		st.CopiedBytes += v.copiedBytes
	}
	s.mu.RUnlock()
	entries, _ := os.ReadDir(s.path(ingestsDir)) // a count that cannot be had is zero
	st.Ingests = len(entries)
	_ = filepath.WalkDir(s.path(ingestsDir), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil // gone in the meantime
		}
		if info, err := e.Info(); err == nil {
			if sys, ok := info.Sys().(*syscall.Stat_t); ok {
				st.IngestBytes += sys.Blocks * 512
			}
		}
		return nil
	})
	return st
}
