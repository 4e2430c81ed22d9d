package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// A record on disk is JSON: {"xxhash64":"<16 hex>","record":{...}}. The sum covers the
// bytes of the inner object, so that a flipped bit is never read as another commit,
// View or Digest.
type envelope struct {
	Sum    string          `json:"xxhash64"`
	Record json.RawMessage `json:"record"`
}

// errCorrupt says that a record cannot be read as what was written.
var errCorrupt = errors.New("record is corrupt")

func encodeRecord(v any) ([]byte, error) {
	inner, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"xxhash64":"%016x","record":%s}`+"\n", xxhash.Sum64(inner), inner), nil
}

func decodeRecord(data []byte, v any) error {
	var e envelope
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&e); err != nil {
		return fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if got := fmt.Sprintf("%016x", xxhash.Sum64(e.Record)); got != e.Sum {
		return fmt.Errorf("%w: xxhash64 is %s, recorded %q", errCorrupt, got, e.Sum)
	}
	if err := json.Unmarshal(e.Record, v); err != nil {
		return fmt.Errorf("%w: %w", errCorrupt, err)
	}
	return nil
}

// readRecord reads path into v. Of its errors, absent says what follows.
func readRecord(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := decodeRecord(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// absent reports whether err, of reading something, says that it is not there or cannot
// be read: incomplete is absent, and so is what the disk does not give back, or one
// record would stop the whole node. Not so if this process lacks what it needs to read
// anything.
func absent(err error) bool {
	return err != nil && !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOMEM)
}

// lost logs that what is at path counts as absent, unless it simply is.
func (s *Store) lost(path string, err error) {
	if !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("cannot be read; taken for absent", zap.String("path", path), zap.Error(err))
	}
}

// writeRecord durably writes v, making path's directory if need be.
func (s *Store) writeRecord(path string, v any, perm os.FileMode) error {
	data, err := encodeRecord(v)
	if err != nil {
		return err
	}
	return s.writeEncoded(path, data, perm)
}

// writeEncoded is writeRecord of what encodeRecord made.
func (s *Store) writeEncoded(path string, data []byte, perm os.FileMode) error {
	if err := s.mkdir(filepath.Dir(path)); err != nil {
		return s.explain(err)
	}
	return s.explain(s.replace(path, data, perm))
}

// replace durably writes the file path, whatever is there now.
func (s *Store) replace(path string, data []byte, perm os.FileMode) error {
	err := s.disk.WriteFile(path, data, perm)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.EISDIR) {
		// A directory, which the store never made.
		if err := s.disk.RemoveAll(path); err != nil {
			return err
		}
		err = s.disk.WriteFile(path, data, perm)
	}
	return err
}
