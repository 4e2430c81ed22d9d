package hubcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// listStep is how many entries of a directory are looked at in one call.
const listStep = 256

// entry is what a directory lists. Links are not followed.
type entry struct {
	dir  string // below the directory that is walked; "" for that itself
	name string
	stat unix.Stat_t
	link string // where it leads, if it is a link
}

func (e entry) isDir() bool { return e.stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// modified is when it was last changed.
func (e entry) modified() time.Time { return time.Unix(e.stat.Mtim.Unix()) }

// lister walks a directory of a folder, in bounds.
type lister struct {
	cache      *Cache
	folder     *folder
	ctx        context.Context
	what       string // for errors
	maxEntries int
	latest     time.Time // when something was last put into a directory, or taken out
}

var errTooMany = errors.New("more than any that makes sense")

// walk calls each for every entry below root, a directory's before those in it.
func (l *lister) walk(root string, each func(entry) error) error {
	seen := 0
	for todo := []string{""}; len(todo) > 0; {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		err := l.list(root, dir, func(e entry) error {
			if seen++; seen > l.maxEntries {
				return fmt.Errorf("%w: %s lists %d entries, %w", fetcher.ErrMalformed, l.folder.shown(root), seen, errTooMany)
			}
			if !e.isDir() {
				return each(e)
			}
			below := path.Join(dir, e.name)
			if _, err := fetcher.ParsePath(below); err != nil { // deeper than any path, for one
				return fmt.Errorf("%w: %s: %w", fetcher.ErrMalformed, l.folder.shown(root), err)
			}
			todo = append(todo, below)
			return each(e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// list calls each for every entry of root/dir.
func (l *lister) list(root, dir string, each func(entry) error) error {
	opened, err := do(l.ctx, l.cache.calls, l.what, func() (*openedDir, error) { return l.folder.openListed(path.Join(root, dir)) }, closeLate)
	if err != nil {
		return err
	}
	defer closeFile(opened)
	if opened.modified.After(l.latest) {
		l.latest = opened.modified
	}
	for {
		entries, err := do(l.ctx, l.cache.calls, l.what, opened.next, nil)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			e.dir = dir
			if err := each(e); err != nil {
				return err
			}
		}
	}
}

// openedDir is a directory that is being listed.
type openedDir struct {
	*os.File
	modified time.Time

	// mu is held by whoever lists or closes: a listing that was left may go on, and
	// os.File bears no Close beside it.
	mu sync.Mutex
}

func (d *openedDir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.File.Close()
}

// openListed opens the directory name. It may hang.
func (f *folder) openListed(name string) (*openedDir, error) {
	file, err := f.openDir(name)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		file.Close()
		return nil, f.explain(name, err)
	}
	return &openedDir{File: file, modified: time.Unix(stat.Mtim.Unix())}, nil
}

// next returns some more entries, or io.EOF. It may hang.
func (d *openedDir) next() ([]entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	names, err := d.Readdirnames(listStep)
	if err != nil {
		if err != io.EOF {
			err = unreachable("list", d.Name(), err)
		}
		return nil, err
	}
	entries := make([]entry, 0, len(names))
	for _, name := range names {
		e := entry{name: name}
		err := unix.Fstatat(int(d.Fd()), name, &e.stat, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && e.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
			buf := make([]byte, unix.PathMax)
			var n int
			n, err = unix.Readlinkat(int(d.Fd()), name, buf)
			e.link = string(buf[:max(n, 0)])
		}
		switch {
		case err == unix.ENOENT: // gone since
		case denied(err):
			return nil, whoMay(d.Name(), name, d.Name())
		case err != nil:
			return nil, unreachable("look at", printable(path.Join(d.Name(), name)), err)
		default:
			entries = append(entries, e)
		}
	}
	return entries, nil
}
