package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Ops are the operations whose order and failures durability rests on. OS is the
// real one; tests use one that fails on command (package durabletest).
type Ops interface {
	// Sync makes the content of f, a file or a directory, durable.
	Sync(f *os.File) error
	// Rename gives the file or directory oldpath the name newpath.
	Rename(oldpath, newpath string) error
	// Link gives the file oldpath a second name.
	Link(oldpath, newpath string) error
	// SyncFS makes everything durable that is in the file system of f.
	SyncFS(f *os.File) error
}

// OS does what the operating system does.
type OS struct{}

// Sync is fsync(2).
func (OS) Sync(f *os.File) error { return f.Sync() }

// Rename is rename(2).
func (OS) Rename(oldpath, newpath string) error { return os.Rename(oldpath, newpath) }

// Link is link(2).
func (OS) Link(oldpath, newpath string) error { return os.Link(oldpath, newpath) }

// SyncFS is syncfs(2).
func (OS) SyncFS(f *os.File) error {
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// Disk makes changes durable by way of its Ops. It is safe for concurrent use.
type Disk struct{ ops Ops }

// New returns a Disk that works through ops.
func New(ops Ops) Disk { return Disk{ops} }

// tempPrefix begins the names of files on their way in; nothing else does.
const tempPrefix = ".tmp-"

// IsTemp reports whether name, a file's last path element, is one that WriteFile left
// behind when its process was killed.
func IsTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// WriteFile replaces path by a file with this content and exactly this mode,
// whatever the umask. Readers see the old content or the new, whole.
func (d Disk) WriteFile(path string, data []byte, perm fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), ignoreNotExist(os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = d.ops.Sync(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.ops.Rename(f.Name(), path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// Append adds data to the end of path, which is made with this mode if absent. After
// an error the end of the file is unknown: the caller must replace the file before it
// appends again.
func (d Disk) Append(path string, data []byte, perm fs.FileMode) error {
	_, statErr := os.Lstat(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, perm)
	if err != nil {
		return fmt.Errorf("append to %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = d.ops.Sync(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("append to %s: %w", path, err)
	}
	if statErr != nil {
		return d.syncDir(filepath.Dir(path))
	}
	return nil
}

// Remove removes the file or empty directory path. It is no error if there is none.
func (d Disk) Remove(path string) error {
	if err := ignoreNotExist(os.Remove(path)); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// RemoveAll removes path and everything below it. The caller answers for there being
// no mount below it.
func (d Disk) RemoveAll(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// MkdirAll makes path and its missing parents, each with exactly this mode, whatever
// the umask. Levels that exist are left as they are, and taken for durable: the caller
// lets nobody else make them at the same time.
func (d Disk) MkdirAll(path string, perm fs.FileMode) error {
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrExist}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if err := d.MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	err := os.Chmod(path, perm)
	if err == nil {
		err = d.syncDir(parent)
	}
	if err != nil {
		// Or the next call would take it for durable.
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// Link gives oldpath a second name. It is not durable before newpath's directory has
// been in a Batch or a Tree.
func (d Disk) Link(oldpath, newpath string) error { return d.ops.Link(oldpath, newpath) }

// Sync makes the content of the file f durable, not its name. After an error it is lost.
func (d Disk) Sync(f *os.File) error { return d.ops.Sync(f) }

func (d Disk) syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := d.ops.Sync(dir); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
