package manifestfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// maxFiles bounds the files of a directory.
const maxFiles = 10_000

// entry is what is known of one file.
type entry struct {
	head
	name  string
	stamp stamp
	sum   sum   // of its listing
	bad   error // why it does not count: then head has the Repo alone, if that could be read
	again bool  // it could not be read: what would mend that need not change its stamp
}

// stamp tells two states of a file apart.
type stamp struct {
	info fs.FileInfo
	at   time.Time
	size int64 // bytes
}

func (s stamp) same(other stamp) bool {
	return os.SameFile(s.info, other.info) && s.at.Equal(other.at) && s.size == other.size
}

// look brings known up to date with the directory. It is called with the turn.
func (f *Files) look(ctx context.Context) error {
	names, err := f.names()
	if err != nil {
		return err
	}
	now := make(map[string]*entry, len(names))
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := os.Stat(filepath.Join(f.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken away just now
		}
		s := stamp{info: info}
		if err == nil {
			s.at, s.size = info.ModTime(), info.Size()
		}
		known := f.known[name]
		if err == nil && known != nil && !known.again && known.stamp.same(s) {
			now[name] = known
			continue
		}
		e := &entry{name: name, stamp: s, bad: err, again: true}
		if err == nil {
			e = f.read(name, s)
		}
		f.tell(e, known)
		now[name], f.known[name] = e, e // what was read is known even if ctx ends before the rest is
	}
	f.known = now
	return nil
}

// tell logs what a file turned out to be, unless it was that before.
func (f *Files) tell(e, before *entry) {
	file := zap.String("file", filepath.Join(f.dir, e.name))
	switch {
	case e.bad == nil:
		f.log.Info("a manifest file counts", file, zap.Stringer("revision", fetcher.Revision{Repo: e.Repo, Commit: e.Commit}), zap.Stringers("refs", e.Refs))
	case before == nil || before.bad == nil || before.bad.Error() != e.bad.Error():
		f.log.Warn("a manifest file does not count", file, zap.Stringer("repo", e.Repo), zap.Error(e.bad))
	}
}

// names lists the files. A mounted ConfigMap has its directories beside them, which begin
// with a dot, as do what editors leave.
func (f *Files) names() (names []string, err error) {
	dir, err := os.Open(f.dir)
	if err != nil { // it was there at the start
		return nil, &fetcher.UnreachableError{Err: fmt.Errorf("manifest files: %w", err)}
	}
	defer dir.Close()
	for {
		some, err := dir.Readdirnames(1024)
		for _, name := range some {
			if strings.HasSuffix(name, ".json") && name[0] != '.' {
				names = append(names, name)
			}
		}
		switch {
		case len(names) > maxFiles:
			return nil, fmt.Errorf("manifest files: %s has more than %d: %w", f.dir, maxFiles, fetcher.ErrMalformed)
		case errors.Is(err, io.EOF):
			return names, nil
		case err != nil:
			return nil, &fetcher.UnreachableError{Err: fmt.Errorf("manifest files: %w", err)}
		}
	}
}

// read reads a file that looked like s before.
func (f *Files) read(name string, s stamp) *entry {
	e := &entry{name: name, stamp: s}
	switch {
	case !s.info.Mode().IsRegular():
		e.bad = errors.New("it is no regular file")
		return e
	case s.size > maxBytes:
		e.bad = errTooLong
		return e
	}
	text, err := f.text(name)
	if err != nil {
		e.bad, e.again = err, true
		return e
	}
	h, m, err := parse(text, f.name)
	if err != nil {
		e.bad, e.Repo = err, repoOf(text)
		return e
	}
	e.head, e.sum = h, sumOf(m)
	return e
}

// text returns what is in a file.
func (f *Files) text(name string) ([]byte, error) {
	file, err := os.Open(filepath.Join(f.dir, name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err == nil && len(text) > maxBytes {
		err = errTooLong
	}
	return text, err
}

var errTooLong = fmt.Errorf("it is longer than %d bytes", maxBytes)
