package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// syncsAtOnce bounds the fsyncs in flight. Journalling file systems put those that
// wait together into one commit; more than 16 gained nothing on ext4.
const syncsAtOnce = 16

// SyncError says that the content of File is lost: it must not be synced again, but
// written again into a new file.
type SyncError struct {
	File *os.File
	Err  error
}

func (e *SyncError) Error() string { return fmt.Sprintf("sync %s: %v", e.File.Name(), e.Err) }

func (e *SyncError) Unwrap() error { return e.Err }

// Batch makes many files durable for the price of few: Commit syncs all files, then
// renames all, in the order given, then syncs each directory once. A Batch is used
// once, by one goroutine.
type Batch struct {
	disk    Disk
	files   []*os.File
	renames [][2]string
	dirs    []string
	known   map[string]bool // the members of dirs
}

// Batch returns an empty Batch.
func (d Disk) Batch() *Batch { return &Batch{disk: d, known: map[string]bool{}} }

// Sync adds a file whose content must be durable before any rename. It stays open.
func (b *Batch) Sync(f *os.File) { b.files = append(b.files, f) }

// Rename adds a rename, and both its directories.
func (b *Batch) Rename(oldpath, newpath string) {
	b.renames = append(b.renames, [2]string{oldpath, newpath})
	b.Dir(filepath.Dir(newpath))
	b.Dir(filepath.Dir(oldpath))
}

// Dir adds a directory whose entries must be durable when Commit returns.
func (b *Batch) Dir(path string) {
	if !b.known[path] {
		b.known[path] = true
		b.dirs = append(b.dirs, path)
	}
}

// Commit runs the batch. If files could not be synced, nothing was renamed and the
// error wraps a *SyncError for each (SyncErrors lists them); after any other error,
// any of the renames may or may not be durable.
func (b *Batch) Commit() error {
	err := each(context.Background(), b.files, func(f *os.File) error {
		if err := b.disk.ops.Sync(f); err != nil {
			return &SyncError{f, err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range b.renames {
		if err := b.disk.ops.Rename(r[0], r[1]); err != nil {
			return err
		}
	}
	return each(context.Background(), b.dirs, b.disk.syncDir)
}

// SyncErrors returns every *SyncError that Commit's error holds.
func SyncErrors(err error) []*SyncError {
	var one *SyncError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*SyncError
		for _, e := range joined.Unwrap() {
			all = append(all, SyncErrors(e)...)
		}
		return all
	}
	if errors.As(err, &one) {
		return []*SyncError{one}
	}
	return nil
}

// each calls do for every item, at most syncsAtOnce at a time, and joins the errors. When
// ctx ends it begins no more and says so.
func each[T any](ctx context.Context, items []T, do func(T) error) error {
	errs := make([]error, len(items)+1)
	var g errgroup.Group
	g.SetLimit(syncsAtOnce)
	for i, item := range items {
		if errs[len(items)] = ctx.Err(); errs[len(items)] != nil {
			break
		}
		g.Go(func() error {
			errs[i] = do(item)
			return nil
		})
	}
	_ = g.Wait() // each keeps all errors, not the first
	return errors.Join(errs...)
}
