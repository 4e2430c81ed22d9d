package store

import (
	"encoding/binary"
	"io"
	"os"

	"github.com/cespare/xxhash/v2"

	"github.com/ballast-csi/ballast/fetcher"
)

// journal lists the finished Pieces of an Ingest. One record, 24 bytes, three little
// endian uint64: the Piece's index, the xxhash64 of its bytes, the xxhash64 of the
// record's first 16 bytes. It is never synced: a record is a hint, believed only after
// the Piece's bytes on disk were hashed again.
type journal struct{ f *os.File }

const journalRecord = 24 // bytes

func (j journal) add(index int, sum uint64) error {
	var rec [journalRecord]byte
	binary.LittleEndian.PutUint64(rec[:], uint64(index))
	binary.LittleEndian.PutUint64(rec[8:], sum)
	binary.LittleEndian.PutUint64(rec[16:], xxhash.Sum64(rec[:16]))
	_, err := j.f.Write(rec[:]) // O_APPEND: whole records of concurrent writers
	return err
}

// load returns the sum of each Piece that the journal lists, of the pieces that there
// are. It cuts off a torn last record, so that the next one starts where one should.
func (j journal) load(pieces int) (map[int]uint64, error) {
	data, err := io.ReadAll(j.f)
	if err != nil {
		return nil, err
	}
	whole := len(data) / journalRecord * journalRecord
	if whole != len(data) {
		if err := j.f.Truncate(int64(whole)); err != nil {
			return nil, err
		}
	}
	sums := map[int]uint64{}
	for rec := data[:whole]; len(rec) > 0; rec = rec[journalRecord:] {
		index := binary.LittleEndian.Uint64(rec)
		if binary.LittleEndian.Uint64(rec[16:]) == xxhash.Sum64(rec[:16]) && index < uint64(pieces) {
			sums[int(index)] = binary.LittleEndian.Uint64(rec[8:])
		}
	}
	return sums, nil
}

func (j journal) reset() error { return j.f.Truncate(0) }

// encodeSums is the content of a sums file.
func encodeSums(sums []uint64) []byte {
	var b []byte
	for _, sum := range sums {
		b = binary.LittleEndian.AppendUint64(b, sum)
	}
	return b
}

// pieceSum returns the xxhash64 of Piece p as it is in f.
func pieceSum(f io.ReaderAt, p fetcher.Piece) (uint64, error) {
	h := xxhash.New()
	err := copyPiece(h, f, p)
	return h.Sum64(), err
}
