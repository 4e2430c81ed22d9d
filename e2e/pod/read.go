package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ballast-csi/ballast/e2e/pod/report"
	"golang.org/x/sys/unix"
)

// readers is how many files are read at a time.
const readers = 8

// sum prints everything below dir.
func sum(dir string, w io.Writer) error {
	ctx, stop := untilStopped()
	defer stop()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	all, err := read(ctx, root)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(all)
}

// rest is between two rounds, so that a small volume does not fill the log.
const rest = 200 * time.Millisecond

// reread reads dir round after round until it is stopped, or finds a round that
// differs from the first.
func reread(dir string, w io.Writer) error {
	ctx, stop := untilStopped()
	defer stop()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var first report.Sum
	for n := 1; ; n++ {
		started := time.Now()
		all, err := read(ctx, root)
		if ctx.Err() != nil {
			return nil
		}
		if n == 1 {
			first = all
		}
		if err == nil {
			err = difference(first.Entries, all.Entries)
		}
		line := report.Round{Round: n, Files: all.Files, Bytes: all.Bytes, Started: started.UTC(), Seconds: all.Seconds}
		if err != nil {
			line.Error = err.Error()
		}
		if err := errors.Join(err, json.NewEncoder(w).Encode(line)); err != nil {
			return fmt.Errorf("round %d: %w", n, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

// difference is an error that names the first entry that is not the same.
func difference(want, got []report.Entry) error {
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return fmt.Errorf("was %+v, is %+v", want[i], got[i])
		}
	}
	if len(want) != len(got) {
		return fmt.Errorf("were %d entries, are %d", len(want), len(got))
	}
	return nil
}

// read reads everything below root, from the disk where the kernel lets go of what
// it has in memory. It returns every error there was, and no entry that has one.
func read(ctx context.Context, root *os.Root) (report.Sum, error) {
	started := time.Now()
	var (
		mu   sync.Mutex // guards all and errs
		all  report.Sum
		errs []error
		wg   sync.WaitGroup
	)
	paths := make(chan string)
	for range readers {
		wg.Go(func() {
			for path := range paths {
				entry, err := entryOf(ctx, root, path)
				mu.Lock()
				if err != nil {
					errs = append(errs, err)
				} else {
					all.Entries = append(all.Entries, entry)
				}
				mu.Unlock()
			}
		})
	}
	walked := fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != "." {
			paths <- path
		}
		return ctx.Err()
	})
	close(paths)
	wg.Wait()
	if err := errors.Join(append(errs, walked)...); err != nil {
		return report.Sum{}, err
	}
	slices.SortFunc(all.Entries, func(a, b report.Entry) int { return cmp.Compare(a.Path, b.Path) })
	for _, e := range all.Entries {
		if e.Type == "file" {
			all.Files++
			all.Bytes += e.Size
		}
	}
	all.Seconds = time.Since(started).Seconds()
	return all, nil
}

func entryOf(ctx context.Context, root *os.Root, path string) (report.Entry, error) {
	stat, err := root.Lstat(path)
	if err != nil {
		return report.Entry{}, err
	}
	e := report.Entry{Path: path, Mode: octal(stat.Mode())}
	switch stat.Mode().Type() {
	case fs.ModeDir:
		e.Type = "directory"
	case fs.ModeSymlink:
		e.Type = "symlink"
	case 0:
		e.Type = "file"
		e.SHA256, e.Size, err = hash(ctx, root, path)
		if err == nil && e.Size != stat.Size() {
			err = fmt.Errorf("%s: %d bytes were read of %d", path, e.Size, stat.Size())
		}
	default:
		e.Type = "other"
	}
	return e, err
}

// octal is mode as chmod(1) takes it.
func octal(mode fs.FileMode) string {
	bits := uint32(mode.Perm())
	for _, special := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if mode&special.mode != 0 {
			bits |= special.bit
		}
	}
	return fmt.Sprintf("%04o", bits)
}

// hash returns the SHA-256 of a file, and the bytes it is of.
func hash(ctx context.Context, root *os.Root, path string) (string, int64, error) {
	f, err := root.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // memory serves too
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, untilDone{ctx, f}, make([]byte, 1<<20))
	if err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(sum.Sum(nil)), n, nil
}

// untilDone reads from r while ctx is not done.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
