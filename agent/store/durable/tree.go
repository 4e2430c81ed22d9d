package durable

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// manyDirs is above how many directories a Tree is synced with its whole file system. An
// fsync each takes 0.2 ms or more on ext4; syncfs also waits for what others have written.
const manyDirs = 2000

// Tree makes the directories of a new tree durable: their entries, not what is in the
// files. It is used once, by one goroutine.
type Tree struct {
	disk Disk
	root *os.File
	dirs []string // relative to root
}

// Tree returns a Tree of root, a directory in which nothing was made so far: the kernel
// tells of what it fails to write from here on (see Sync).
func (d Disk) Tree(root string) (*Tree, error) {
	f, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	return &Tree{d, f, []string{"."}}, nil
}

// Dir adds a directory whose entries must be durable when Sync returns. Its path is
// relative to the root, which is in the Tree from the first.
func (t *Tree) Dir(path string) { t.dirs = append(t.dirs, path) }

// Sync syncs all directories, or ends with ctx, and then some may not be durable. It
// does not end in the middle of a syncfs.
//
// One syncfs is worth an fsync each: it waits until all that was changed in the file
// system before is on disk, directories and the names in them included, and since Linux
// 5.8 it fails if anything could not be written since its descriptor was opened, which is
// why Tree opens it (syncfs(2); errseq_t in Linux's Documentation/core-api). A journal
// that has failed refuses every later change too, so no rename follows it.
func (t *Tree) Sync(ctx context.Context) error {
	if len(t.dirs) <= manyDirs {
		return each(ctx, t.dirs, func(dir string) error { return t.disk.syncDir(filepath.Join(t.root.Name(), dir)) })
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.disk.ops.SyncFS(t.root); err != nil {
		return fmt.Errorf("sync the file system of %s: %w", t.root.Name(), err)
	}
	return nil
}

// Close frees what Tree opened.
func (t *Tree) Close() error { return t.root.Close() }
