package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	partialSuffix = ".partial"
	viewFile      = "view.json"
	rootDir       = "root"
)

// AssembleView makes the View of k, which shows m, already selected by k.Filter. It is
// visible whole or not at all, and durable when AssembleView returns. If a Blob is not
// here, the error names the file and matches fs.ErrNotExist. A View that exists is
// left as it is.
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
	for _, f := range m.Files {
		if !k.Filter.Match(f.Path) {
			return fmt.Errorf("view of %s: %s is not among the files selected", k.Revision, f.Path)
		}
	}
	s.linking.Lock()
	defer s.linking.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	v := k.view()
	if s.hasView(v.ID) {
		return nil
	}
	if err := s.assemble(ctx, v, newViewRecord(k, m)); err != nil {
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

// assemble builds v beside its name and renames it there. The caller holds linking.
func (s *Store) assemble(ctx context.Context, v View, rec viewRecord) error {
	final := s.path(viewsDir, v.ID)
	partial := final + partialSuffix
	if err := s.disk.RemoveAll(partial); err != nil { // nothing partial is ever mounted
		return err
	}
	if err := s.build(ctx, partial, &rec); err != nil {
		return errors.Join(err, s.disk.RemoveAll(partial))
	}
	birth := s.disk.Batch()
	birth.Rename(partial, final)
	if err := birth.Commit(); err != nil {
		// Whether it has its name or not, nobody was told: no Pin and no mount knows it.
		if undo := errors.Join(s.disk.RemoveAll(final), s.disk.RemoveAll(partial)); undo != nil {
			return errors.Join(err, s.fail(undo))
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.views[v.ID] = rec.info()
	return nil
}

// build makes and syncs everything that is in dir, view.json included.
func (s *Store) build(ctx context.Context, dir string, rec *viewRecord) error {
	list, err := plan(*rec)
	if err != nil {
		return err
	}
	root := filepath.Join(dir, rootDir)
	batch := s.disk.Batch()
	for _, made := range []string{dir, root} {
		if err := makeShared(made); err != nil {
			return err
		}
		batch.Dir(made)
	}
	b := builder{s: s, root: root, rec: rec}
	defer b.close()
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.add(e); err != nil {
			return err
		}
		if e.dir {
			batch.Dir(filepath.Join(root, e.path))
		}
	}
	for _, f := range b.files {
		batch.Sync(f)
	}
	if err := batch.Commit(); err != nil {
		return err
	}
	data, err := encodeRecord(rec)
	if err != nil {
		return err
	}
	return s.disk.WriteFile(filepath.Join(dir, viewFile), data, privateFile)
}

// makeShared makes a directory that pods see, whatever the umask.
func makeShared(path string) error {
	return errors.Join(os.Mkdir(path, sharedDir), os.Chmod(path, sharedDir))
}

// builder fills a View's root.
type builder struct {
	s     *Store
	root  string
	rec   *viewRecord
	files []*os.File // written, not yet synced
}

func (b *builder) close() {
	for _, f := range b.files {
		f.Close()
	}
}

func (b *builder) add(e entry) error {
	path := filepath.Join(b.root, e.path)
	switch {
	case e.dir:
		return makeShared(path)
	case e.file == nil:
		f, err := b.create(path)
		if err == nil {
			_, err = io.WriteString(f, e.content)
		}
		return err
	case !b.s.HasBlob(e.file.Digest):
		return fmt.Errorf("%s: its blob %s is not in the cache: %w", e.file.Path, e.file.Digest, fs.ErrNotExist)
	}
	err := b.s.disk.Link(b.s.blobPath(e.file.Digest), path)
	if errors.Is(err, unix.EMLINK) {
		b.rec.Copied = append(b.rec.Copied, e.file.Path.String())
		err = b.copy(path, *e.file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.file.Path, err)
	}
	return nil
}

// create makes a file that everyone may read; it is synced with the others.
func (b *builder) create(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, ingestMode)
	if err != nil {
		return nil, err
	}
	b.files = append(b.files, f)
	return f, f.Chmod(blobMode)
}

// copy copies a Blob that can have no more links, and verifies what it copied.
func (b *builder) copy(path string, file fetcher.File) error {
	blob, err := b.s.OpenBlob(file.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	f, err := b.create(path)
	if err != nil {
		return err
	}
	h := fetcher.NewHasher(file.Digest.Algorithm(), file.Size)
	if _, err := io.Copy(io.MultiWriter(f, h), blob); err != nil {
		return err
	}
	if got, err := h.Digest(); err != nil || got != file.Digest {
		return fmt.Errorf("blob %s has rotted: it hashes to %s", file.Digest, got)
	}
	return nil
}
