package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	partialSuffix = ".partial"
	viewFile      = "view.json"
	rootDir       = "root"
)

// AssembleView makes the View of k, which shows m: what k.Filter selects, for which the
// caller answers. It is visible whole or not at all, and durable when AssembleView returns. If a Blob is not
// here, the error names the file and matches fs.ErrNotExist. A View that exists is
// left as it is.
//
// It ends with ctx. What it has begun is then stopped and removed without the caller, which
// takes as long as the disk does; until then another call for the same View waits.
func (s *Store) AssembleView(ctx context.Context, k ViewKey, m *fetcher.Manifest) error {
	if err := k.check(); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	if m.Revision != k.Revision {
		return fmt.Errorf("view of %s: the manifest is that of %s", k.Revision, m.Revision)
	}
	v := k.view()
	exists, err := s.claimView(ctx, v.ID)
	if err == nil && !exists {
		err = s.assembleApart(ctx, v, newViewRecord(k, m))
	}
	if err != nil {
		return fmt.Errorf("view of %s: %w", k.Revision, s.explain(err))
	}
	return nil
}

func (s *Store) hasView(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.views[id]
	return ok
}

// assembleApart is assemble, and unclaims v, in a goroutine that Close waits for.
func (s *Store) assembleApart(ctx context.Context, v View, rec viewRecord) error {
	ended := make(chan error, 1)
	s.assemblies.Go(func() {
		err := s.assemble(ctx, v, rec)
		s.unclaimView(v.ID)
		ended <- err
	})
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// claimView waits until nobody else makes the View id, and reports whether it exists. If
// not, it is the caller's to make until unclaimView.
func (s *Store) claimView(ctx context.Context, id string) (exists bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		exists, other, err := s.tryClaimView(id)
		if other == nil {
			return exists, err
		}
		select {
		case <-other:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func (s *Store) tryClaimView(id string) (exists bool, other chan struct{}, err error) {
	s.linking.Lock()
	defer s.linking.Unlock()
	if err := s.usable(); err != nil {
		return false, nil, err
	}
	s.mu.RLock()
	_, exists = s.views[id]
	other = s.assembling[id]
	s.mu.RUnlock()
	if exists || other != nil {
		return exists, other, nil
	}
	if err := s.setAside(id); err != nil { // that Open could not, if it is there
		return false, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.assembling[id] = make(chan struct{})
	return false, nil, nil
}

func (s *Store) unclaimView(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.assembling[id])
	delete(s.assembling, id)
}

// assemble builds v beside its name and renames it there. The caller has claimed it.
func (s *Store) assemble(ctx context.Context, v View, rec viewRecord) error {
	final := s.path(viewsDir, v.ID)
	partial := final + partialSuffix
	if err := s.disk.RemoveAll(partial); err != nil { // nothing partial is ever mounted
		return err
	}
	err := s.build(ctx, partial, &rec)
	if err == nil {
		err = s.usable()
	}
	if err != nil {
		return errors.Join(err, s.disk.RemoveAll(partial))
	}
	birth := s.disk.Batch()
	birth.Rename(partial, final)
	if err := birth.Commit(); err != nil {
		// Whether it has its name or not, nobody was told: no Pin and no mount knows it.
		if undo := s.unname(v.ID); undo != nil {
			return errors.Join(err, s.fail(undo))
		}
		return errors.Join(err, s.disk.RemoveAll(partial))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.views[v.ID] = rec.info(v.Key)
	return nil
}
