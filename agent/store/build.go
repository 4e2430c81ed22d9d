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
