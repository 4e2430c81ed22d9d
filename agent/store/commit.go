package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/fetcher"
)

// Commit makes the Blobs of verified Ingests, as one batch, and records what they came
// through. Bytes of a Blob that is here already are dropped, their origin is kept.
//
// The order: bytes synced, their sums durable, their origins durable, then names. So
// whatever stops it, no Blob has a name before all that is said of it is durable.
//
// After an error, Ingests whose bytes may be lost are discarded (Missing lists nothing
// of use; begin them again); the others are still verified and may be committed
// again. ctx is looked at before anything becomes visible, never after.
func (s *Store) Commit(ctx context.Context, ins []*Ingest) error {
	if err := s.usable(); err != nil {
		return err
	}
	for _, in := range ins {
		in.mu.Lock()
		state := in.state
		in.mu.Unlock()
		if state != verified || in.s != s {
			return fmt.Errorf("commit %s of %s: its bytes are not verified", in.file.Path, in.origin.Repo)
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := s.syncIngests(ins); err != nil {
		return fmt.Errorf("commit: %w", s.explain(err))
	}
	s.admitting.Lock()
	defer s.admitting.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	through := map[Origin][]fetcher.Digest{}
	for _, in := range ins {
		through[in.origin] = append(through[in.origin], in.file.Digest)
	}
	for o, digests := range through {
		if err := s.addOrigin(o, digests); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	if err := s.admit(ins); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// syncIngests makes bytes, modes and sums durable. Nobody sees any of it yet but
// sums, which say nothing without their Blob.
func (s *Store) syncIngests(ins []*Ingest) error {
	batch := s.disk.Batch()
	owner := map[*os.File]*Ingest{}
	for _, in := range ins {
		if err := in.data.Chmod(blobMode); err != nil {
			return err
		}
		owner[in.data] = in
		batch.Sync(in.data)
	}
	err := batch.Commit()
	for _, lost := range durable.SyncErrors(err) {
		err = errors.Join(err, owner[lost.File].discard())
	}
	if err != nil {
		return err
	}
	for _, in := range ins {
		if len(in.pieces) < 2 {
			continue
		}
		path := s.sumsPath(in.file.Digest)
		if err := s.mkdir(filepath.Dir(path)); err != nil {
			return err
		}
		if err := s.disk.WriteFile(path, encodeSums(in.sums()), privateFile); err != nil {
			return err
		}
	}
	return nil
}

func (in *Ingest) sums() []uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	sums := make([]uint64, len(in.pieces))
	for i, p := range in.pieces {
		sums[i] = p.sum
	}
	return sums
}

// admit gives the Blobs that are new their names. The caller holds admitting.
func (s *Store) admit(ins []*Ingest) error {
	batch := s.disk.Batch()
	named := map[fetcher.Digest]*Ingest{}
	for _, in := range ins {
		d := in.file.Digest
		if s.HasBlob(d) || named[d] != nil {
			continue
		}
		if err := s.mkdir(filepath.Dir(s.blobPath(d))); err != nil {
			return s.explain(err)
		}
		named[d] = in
		batch.Rename(in.place.data, s.blobPath(d))
	}
	if err := batch.Commit(); err != nil {
		return errors.Join(err, s.retract(named))
	}
	s.mu.Lock()
	for d, in := range named {
		s.blobs[d] = in.file.Size
	}
	s.mu.Unlock()
	for _, in := range ins {
		// What is left is a journal, or bytes that are here already: a failure to
		// remove them only costs room until the next start.
		_ = in.discard()
	}
	return nil
}

// retract takes back names that may not be durable. If that fails too, memory and disk
// may differ for good.
func (s *Store) retract(named map[fetcher.Digest]*Ingest) error {
	var errs error
	for d, in := range named {
		errs = errors.Join(errs, s.disk.Remove(s.blobPath(d)), in.discard())
	}
	if errs != nil {
		return s.fail(errs)
	}
	return nil
}
