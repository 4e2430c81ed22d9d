package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cespare/xxhash/v2"
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

// readRecord reads path into v. Its errors match fs.ErrNotExist or errCorrupt, or are
// the disk's.
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

// absent reports whether err says that there is no record, or none that is whole:
// incomplete is absent.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errCorrupt) }
