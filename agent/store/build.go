package store

import (
	"cmp"
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
	if err := s.makeRoomForView(list); err != nil {
		return err
	}
	root := filepath.Join(dir, rootDir)
	if err := errors.Join(makeShared(dir), makeShared(root)); err != nil {
		return err
	}
	tree, err := s.disk.Tree(root)
	if err != nil {
		return err
	}
	defer tree.Close()
	b := builder{s: s, root: root, rec: rec, copies: map[fetcher.Digest]copies{}}
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.add(ctx, e); err != nil {
			return err
		}
		if e.dir {
			tree.Dir(e.path)
		}
	}
	if err := tree.Sync(ctx); err != nil {
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

// builder fills a View's root. It has no more than a file or two open at a time, however
// many there are.
type builder struct {
	s      *Store
	root   string
	rec    *viewRecord
	copies map[fetcher.Digest]copies
}

// copies are those made in a View of one Blob, each when nothing before it could have one
// more link.
type copies struct {
	n    int64
	last string // path
}

func (b *builder) add(ctx context.Context, e entry) error {
	path := filepath.Join(b.root, e.path)
	switch {
	case e.dir:
		return makeShared(path)
	case e.file == nil:
		return b.write(path, func(f *os.File) error {
			_, err := io.WriteString(f, e.content)
			return err
		})
	case !b.s.HasBlob(e.file.Digest):
		return fmt.Errorf("%s: its blob %s is not in the cache: %w", e.file.Path, e.file.Digest, fs.ErrNotExist)
	}
	err := b.s.disk.Link(cmp.Or(b.copies[e.file.Digest].last, b.s.blobPath(e.file.Digest)), path)
	if errors.Is(err, unix.EMLINK) {
		err = b.copy(ctx, path, *e.file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.file.Path, err)
	}
	return nil
}

// write makes a file that everyone may read, with the content that fill gives it.
func (b *builder) write(path string, fill func(*os.File) error) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, ingestMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(blobMode); err != nil {
		return err
	}
	return b.s.disk.Sync(f)
}

// copy copies a Blob that can have no more links, and verifies what it copied. The copy
// takes the Blob's place for what comes after it in this View.
func (b *builder) copy(ctx context.Context, path string, file fetcher.File) error {
	n := b.copies[file.Digest].n + 1
	if err := b.s.fits(file.Size * (n + 1)); err != nil {
		return fmt.Errorf("with %d copies, as there can be no more links to it: %w", n, err)
	}
	blob, err := b.s.OpenBlob(file.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	err = b.write(path, func(f *os.File) error {
		if err := b.s.makeRoom(file.Size, func() error { return preallocate(f, 0, file.Size) }); err != nil {
			return err
		}
		h := fetcher.NewHasher(file.Digest.Algorithm(), file.Size)
		for i := range fetcher.Pieces(file.Size) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := copyPiece(io.MultiWriter(f, h), blob, fetcher.PieceAt(i, file.Size)); err != nil {
				return err
			}
		}
		if got, err := h.Digest(); err != nil || got != file.Digest {
			return fmt.Errorf("blob %s has rotted: it hashes to %s", file.Digest, got)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.copies[file.Digest] = copies{n, path}
	b.rec.Copied = append(b.rec.Copied, file.Path.String())
	return nil
}
