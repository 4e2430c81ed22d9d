package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// reading is what reading a whole volume showed.
type reading struct {
	files int
	bytes int64
	took  time.Duration
}

func (r reading) String() string {
	return fmt.Sprintf("%s, %s in %s (%s/s)", countText(r.files, "file"), sizeText(r.bytes), timeText(r.took), sizeText(rateOf(r.bytes, r.took)))
}

// readAll reads every file below dir and compares what is there with m: the same
// names, regular files, bytes that hash to the Digests.
func readAll(ctx context.Context, dir string, m *fetcher.Manifest) (reading, error) {
	begun := time.Now()
	if err := compareNames(dir, m); err != nil {
		return reading{}, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	var bytes atomic.Int64
	for _, f := range m.Files {
		g.Go(func() error {
			bytes.Add(f.Size)
			return hashFile(ctx, filepath.Join(dir, f.Path.String()), f)
		})
	}
	err := g.Wait()
	return reading{len(m.Files), bytes.Load(), time.Since(begun)}, err
}

// compareNames reports files that are missing, not in m, or no regular files.
func compareNames(dir string, m *fetcher.Manifest) error {
	want := map[string]bool{}
	for _, f := range m.Files {
		want[f.Path.String()] = true
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if !want[name] || !e.Type().IsRegular() {
			return fmt.Errorf("%s (%s) has no business there", name, e.Type())
		}
		delete(want, name)
		return nil
	})
	if err == nil && len(want) > 0 {
		err = fmt.Errorf("%s missing, %s first", countText(len(want), "file"), slices.Min(slices.Collect(maps.Keys(want))))
	}
	return err
}

// hashFile reports whether the file at path holds f's bytes.
func hashFile(ctx context.Context, path string, f fetcher.File) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	h := fetcher.NewHasher(f.Digest.Algorithm(), f.Size)
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, untilEnd(ctx, file), make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("read %s: %w", f.Path, err)
	}
	if got, err := h.Digest(); err != nil || got != f.Digest {
		return fmt.Errorf("%s hashes to %s, the Hub says %s", f.Path, got, f.Digest)
	}
	return nil
}

// inode returns the inode's number of the file at path.
func inode(path string) (uint64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}

// sameInodes counts the files of m that are one inode below each of dirs, and those
// that are not.
func sameInodes(m *fetcher.Manifest, dirs ...string) (same, different int, err error) {
	for _, f := range m.Files {
		seen := map[uint64]bool{}
		for _, dir := range dirs {
			ino, err := inode(filepath.Join(dir, f.Path.String()))
			if err != nil {
				return 0, 0, err
			}
			seen[ino] = true
		}
		if len(seen) == 1 {
			same++
		} else {
			different++
		}
	}
	return same, different, nil
}

// refusedWrite reports an error unless err is the kernel's "read-only file system".
func refusedWrite(err error) error {
	switch {
	case err == nil:
		return errors.New("it was allowed")
	case !errors.Is(err, unix.EROFS):
		return fmt.Errorf("refused, but for another reason: %w", err)
	}
	return nil
}

// writes are ways of changing a file (or its directory) through a volume.
func writes(file string) map[string]func() error {
	created := filepath.Join(filepath.Dir(file), "created")
	return map[string]func() error{
		"create":    func() error { return os.WriteFile(created, []byte("x"), 0o644) },
		"overwrite": func() error { return openFor(file, os.O_WRONLY|os.O_TRUNC) },
		"append":    func() error { return openFor(file, os.O_WRONLY|os.O_APPEND) },
		"chmod":     func() error { return os.Chmod(file, 0o666) },
		"touch":     func() error { return os.Chtimes(file, time.Now(), time.Now()) },
		"link":      func() error { return os.Link(file, created) },
		"mkdir":     func() error { return os.Mkdir(created, 0o755) },
		"remove":    func() error { return os.Remove(file) },
	}
}

func openFor(file string, flag int) error {
	f, err := os.OpenFile(file, flag, 0)
	if err == nil {
		f.Close()
	}
	return err
}

// tryWrites tries each of writes and reports those that were not refused as they must.
func tryWrites(file string) (tried string, err error) {
	all := writes(file)
	names := slices.Sorted(maps.Keys(all))
	for _, name := range names {
		if werr := refusedWrite(all[name]()); werr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", name, werr))
		}
	}
	return strings.Join(names, ", "), err
}

// mountCount returns how many mounts this namespace has.
func mountCount() (int, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	return strings.Count(string(text), "\n"), err
}
