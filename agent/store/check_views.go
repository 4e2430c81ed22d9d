package store

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ballast-csi/ballast/fetcher"
)

// checkViews: each View is whole, named after what it shows, and holds exactly what
// its record says: links to the Blobs of the Manifest and its Layout's own files.
func (c *checker) checkViews() {
	entries, err := os.ReadDir(c.path(viewsDir))
	c.failed(c.path(viewsDir), err)
	for _, e := range entries {
		path := c.path(viewsDir, e.Name())
		if id, suspect := suspectOf(e.Name()); suspect {
			c.views[id] = true // set aside because it is not whole
			continue
		}
		if !e.IsDir() || strings.HasSuffix(e.Name(), partialSuffix) {
			c.wrong(path, "not a view")
			continue
		}
		c.views[e.Name()] = true
		if info, err := os.Lstat(filepath.Join(path, viewFile)); err == nil && !info.Mode().IsRegular() {
			c.wrong(filepath.Join(path, viewFile), "not a plain file")
		}
		var rec viewRecord
		if c.failed(path, readRecord(filepath.Join(path, viewFile), &rec)) {
			continue
		}
		c.checkViewRecord(path, rec)
		c.checkViewTree(path, rec)
	}
}

func (c *checker) checkViewRecord(path string, rec viewRecord) {
	k, err := rec.key()
	if c.failed(path, err) {
		return
	}
	if id := k.view().ID; id != filepath.Base(path) {
		c.wrong(path, "what it shows has the id %s", id)
	}
	listed := &fetcher.Manifest{Revision: rec.Revision, Authority: "view", Files: rec.Files}
	if c.failed(path, listed.Check()) {
		return
	}
	o := k.Origin()
	m, err := readManifest(c.path(manifestPath(o, k.Revision.Commit)), o, k.Revision.Commit)
	if err == nil && m.RepoID == o.ID && (!o.Local() || Listing(m.Manifest) == k.Listing) {
		selected, err := m.Select(context.Background(), k.Filter)
		if !c.failed(path, err) && !slices.Equal(selected.Files, rec.Files) {
			c.wrong(path, "its files are not those that its filter selects of the manifest")
		}
	}
	inside, err := os.ReadDir(path)
	c.failed(path, err)
	for _, e := range inside {
		if e.Name() != viewFile && e.Name() != rootDir {
			c.wrong(filepath.Join(path, e.Name()), "does not belong in a view")
		}
	}
}

func (c *checker) checkViewTree(path string, rec viewRecord) {
	list, err := plan(rec)
	if c.failed(path, err) {
		return
	}
	root := filepath.Join(path, rootDir)
	copied := c.checkCopies(root, list, rec.Copied)
	want := map[string]entry{root: {dir: true}}
	for _, e := range list {
		want[filepath.Join(root, e.path)] = e
	}
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		w, ok := want[path]
		delete(want, path)
		if !ok {
			c.wrong(path, "does not belong in this view")
			return nil
		}
		c.checkViewEntry(path, info, w, copied)
		return nil
	})
	c.failed(root, err)
	for _, path := range slices.Sorted(maps.Keys(want)) {
		c.wrong(path, "missing from the view")
	}
}

func (c *checker) checkViewEntry(path string, info fs.FileInfo, want entry, copied map[inode]fetcher.Digest) {
	switch {
	case want.dir:
		if !info.IsDir() || info.Mode().Perm() != sharedDir {
			c.wrong(path, "%s is not a directory of mode %o", info.Mode(), sharedDir)
		}
	case info.Mode() != blobMode:
		c.wrong(path, "%s is not a plain file of mode %o", info.Mode(), blobMode)
	case want.file == nil:
		if got, err := os.ReadFile(path); !c.failed(path, err) && string(got) != want.content {
			c.wrong(path, "holds %q, not %q", got, want.content)
		}
	case copied[inodeOf(info)] == want.file.Digest: // whatever it is: a copy's bytes were hashed
	case !os.SameFile(info, c.blobs[want.file.Digest]):
		c.wrong(path, "not a link to blob %s, nor to a copy of it", want.file.Digest)
	}
}

// inode is a file, whatever its names.
type inode struct{ dev, ino uint64 }

func inodeOf(info fs.FileInfo) inode {
	st := info.Sys().(*syscall.Stat_t)
	return inode{st.Dev, st.Ino}
}

// checkCopies: each file that is called a copy is one, of a whole Blob, and is counted once.
// It returns them.
func (c *checker) checkCopies(root string, list []entry, paths []string) map[inode]fetcher.Digest {
	called, copied := map[string]bool{}, map[inode]fetcher.Digest{}
	for _, path := range paths {
		called[path] = true
	}
	for _, e := range list {
		if e.file == nil || !called[e.file.Path.String()] {
			continue
		}
		path := filepath.Join(root, e.path)
		info, err := os.Lstat(path)
		switch {
		case c.failed(path, err):
		case info.Size() != e.file.Size:
			c.wrong(path, "a copy of %d bytes, not %d", info.Size(), e.file.Size)
		case !copied[inodeOf(info)].IsZero() || os.SameFile(info, c.blobs[e.file.Digest]):
			c.wrong(path, "called a copy, and is a link")
		default:
			c.checkCopy(path, *e.file)
			copied[inodeOf(info)] = e.file.Digest
		}
	}
	return copied
}

func (c *checker) checkCopy(path string, file fetcher.File) {
	f, err := os.Open(path)
	if c.failed(path, err) {
		return
	}
	defer f.Close()
	h := fetcher.NewHasher(file.Digest.Algorithm(), file.Size)
	for i := range fetcher.Pieces(file.Size) {
		if c.failed(path, copyPiece(h, f, fetcher.PieceAt(i, file.Size))) {
			return
		}
	}
	if got, err := h.Digest(); err != nil || got != file.Digest {
		c.wrong(path, "a copy that hashes to %s, not %s", got, file.Digest)
	}
}
