package hubcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	// arriving is for how long a half-written blob is one that somebody writes.
	arriving = 10 * time.Minute
	// settled is for how long nothing may have been added to a snapshot without a tree
	// until it is taken as whole: between two files a download leaves no trace.
	settled = 10 * time.Second

	// indexFile lists the shards of a model.
	indexFile = "model.safetensors.index.json"
	// maxIndex bounds it, in bytes.
	maxIndex = 64 << 20
)

func snapshotDir(c fetcher.Commit) string { return "snapshots/" + c.String() }

// Manifest says what trees/<commit>.json lists. Without that it is what the snapshot
// holds: a blob's name is its Digest, and what has none is hashed. While such a
// snapshot may not be whole the answer is Unreachable.
func (c *Cache) Manifest(ctx context.Context, rev fetcher.Revision, _ fetcher.Secret) (*fetcher.Manifest, error) {
	what := fmt.Sprintf("list the files of %s in %s", rev, c.dir)
	f, err := c.enter(ctx, what, rev.Repo)
	if err != nil {
		return nil, err
	}
	defer f.close()
	files, err := c.tree(ctx, what, f, rev.Commit)
	if errors.Is(err, fetcher.ErrAbsent) || errors.Is(err, errNoTree) {
		if errors.Is(err, errNoTree) {
			c.log.Debug("a tree is ignored", zap.Stringer("revision", rev), zap.Error(err))
		}
		s := &snapshot{lister: lister{cache: c, folder: f, ctx: ctx, what: what, maxEntries: fetcher.MaxFiles + fetcher.MaxDirectories}, commit: rev.Commit}
		files, err = s.read()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	m, err := fetcher.NewManifest(rev, c.name, files)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", what, fetcher.ErrMalformed, err)
	}
	return m, nil
}

// tree reads trees/<commit>.json.
func (c *Cache) tree(ctx context.Context, what string, f *folder, commit fetcher.Commit) ([]fetcher.File, error) {
	name := treeFile(commit)
	file, err := c.openContent(ctx, what, f, name)
	if err != nil {
		return nil, err
	}
	defer closeFile(file)
	if file.stat.Size > maxTree {
		return nil, fmt.Errorf("%w: %s has %d bytes, %w", fetcher.ErrMalformed, f.shown(name), file.stat.Size, errTooMany)
	}
	r := c.reader(ctx, what, file)
	defer r.Close()
	files, err := parseTree(r, fetcher.MaxFiles)
	if r.err != nil { // that the tree ends there is no news
		return nil, r.err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.shown(name), err)
	}
	return files, nil
}

// openContent opens a file of f.
func (c *Cache) openContent(ctx context.Context, what string, f *folder, name string) (*content, error) {
	return do(ctx, c.calls, what, func() (*content, error) { return f.open(name) }, closeLate)
}

// reader reads all of file.
func (c *Cache) reader(ctx context.Context, what string, file *content) *rangeReader {
	o := &object{calls: c.calls, file: file.File, size: file.stat.Size, what: what + ": read " + file.Name()}
	return &rangeReader{ctx: ctx, object: o, end: o.size}
}

// snapshot is a snapshot without a tree.
type snapshot struct {
	lister
	commit fetcher.Commit
	files  []fetcher.File
}

// read lists its files, unless it may not be whole.
func (s *snapshot) read() ([]fetcher.File, error) {
	if err := s.noneArrive(); err != nil {
		return nil, err
	}
	err := s.walk(snapshotDir(s.commit), s.add)
	var missing *absentError
	if errors.As(err, &missing) && len(s.files) == 0 && s.latest.IsZero() {
		return nil, fmt.Errorf("%w: %w", fetcher.ErrRevisionNotFound, s.folder.neither(s.commit))
	}
	if err == nil {
		err = s.noneArrive()
	}
	if err == nil {
		err = s.isWhole()
	}
	return s.files, err
}

// partial is what is said of a snapshot that is not whole: somebody may be about to
// make it so.
func (s *snapshot) partial(format string, args ...any) error {
	return &fetcher.UnreachableError{Err: fmt.Errorf("%s is not complete: %s", s.folder.shown(snapshotDir(s.commit)), fmt.Sprintf(format, args...))}
}

// noneArrive looks for blobs that are being downloaded, or were until somebody gave up:
// of which snapshot they are nobody knows.
func (s *snapshot) noneArrive() error {
	var half []entry
	whole := map[string]bool{}
	l := s.lister // with an s.latest of its own
	err := l.list("blobs", "", func(e entry) error {
		switch {
		case len(half)+len(whole) > s.maxEntries:
			return fmt.Errorf("%w: %s lists %w", fetcher.ErrMalformed, s.folder.shown("blobs"), errTooMany)
		case path.Ext(e.name) == incomplete:
			half = append(half, e)
		default:
			whole[e.name] = true
		}
		return nil
	})
	if err != nil && !errors.Is(err, fetcher.ErrAbsent) {
		return err
	}
	for _, e := range half {
		name := s.folder.shown("blobs/" + e.name)
		etag, _, _ := strings.Cut(e.name, ".")
		switch age := time.Since(e.modified()); {
		case age < arriving:
			return s.partial("%s is being downloaded", name)
		case !whole[etag]:
			return s.partial("%s was last written to %s ago: finish the download, or delete that file", name, age.Round(time.Minute))
		}
	}
	return nil
}

// add takes an entry into files.
func (s *snapshot) add(e entry) error {
	if e.isDir() {
		return nil
	}
	rel := path.Join(e.dir, e.name)
	p, err := fetcher.ParsePath(rel)
	if err != nil {
		return fmt.Errorf("%w: %w", fetcher.ErrMalformed, err)
	}
	if len(s.files) == fetcher.MaxFiles {
		return fmt.Errorf("%w: %s holds %w", fetcher.ErrMalformed, s.folder.shown(snapshotDir(s.commit)), errTooMany)
	}
	file, err := s.cache.openContent(s.ctx, s.what, s.folder, snapshotDir(s.commit)+"/"+rel)
	var missing *absentError
	switch {
	case errors.As(err, &missing) && missing.gone:
		return s.partial("%s", missing.text)
	case errors.As(err, &missing):
		return fmt.Errorf("%w: %s", fetcher.ErrMalformed, missing.text)
	case err != nil:
		return err
	}
	defer closeFile(file)
	d, named := digestOf(e.link)
	if !named {
		if d, err = s.cache.digest(s.ctx, s.what, file); err != nil {
			return err
		}
	}
	f := fetcher.File{Path: p, Size: file.stat.Size, Digest: d}
	if d.Algorithm() == fetcher.GitBlobSHA1 {
		f.OID = d.Hex()
	}
	s.files = append(s.files, f)
	return nil
}

// digestOf reads the Digest that the blob's name is to which a link leads.
func digestOf(link string) (fetcher.Digest, bool) {
	if dir, name := path.Split(link); path.Base(dir) == "blobs" {
		for _, algorithm := range []fetcher.Algorithm{fetcher.SHA256, fetcher.GitBlobSHA1} {
			if d, err := fetcher.NewDigest(algorithm, name); err == nil {
				return d, true
			}
		}
	}
	return fetcher.Digest{}, false
}

// isWhole looks for signs that files are still to come.
func (s *snapshot) isWhole() error {
	if len(s.files) == 0 {
		return s.partial("it is empty")
	}
	if age := time.Since(s.latest).Abs(); age < settled {
		return s.partial("its last file came %s ago, and more may follow", age.Round(time.Second))
	}
	names := make([]string, len(s.files))
	for i, f := range s.files {
		names[i] = f.Path.String()
	}
	slices.Sort(names)
	if _, ok := slices.BinarySearch(names, indexFile); !ok {
		return nil
	}
	file, err := s.cache.openContent(s.ctx, s.what, s.folder, snapshotDir(s.commit)+"/"+indexFile)
	if err != nil {
		return err
	}
	defer closeFile(file)
	r := s.cache.reader(s.ctx, s.what, file)
	defer r.Close()
	listed := shards(io.LimitReader(r, maxIndex))
	if r.err != nil {
		return r.err
	}
	for _, shard := range listed {
		if _, ok := slices.BinarySearch(names, shard); !ok {
			return s.partial("%s lists %.300q, which is not there", indexFile, shard)
		}
	}
	return nil
}
