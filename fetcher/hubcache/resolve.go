package hubcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	// maxRefFile is more than a ref's file has, in bytes.
	maxRefFile = 128
	// maxRefs bounds the refs of a Repo.
	maxRefs = 10_000
	// A ref that is not whole is looked at so often, with so long in between:
	// huggingface_hub before 1.31 empties the file before it writes to it.
	refTries = 4
	refPause = 50 * time.Millisecond
)

var errHalfRef = errors.New("is not a commit of 40 hex digits: half-written")

// Resolve reads refs/<ref>. A commit is one that the cache has a snapshot or a tree of.
func (c *Cache) Resolve(ctx context.Context, repo fetcher.Repo, ref fetcher.Ref, _ fetcher.Secret) (fetcher.Resolution, error) {
	what := fmt.Sprintf("resolve %s at %s in %s", repo, ref, c.dir)
	f, err := c.enter(ctx, what, repo)
	if err != nil {
		return fetcher.Resolution{}, err
	}
	defer f.close()
	read := func() (fetcher.Commit, error) { return f.readRef(ref.String()) }
	if commit, ok := ref.Commit(); ok {
		read = func() (fetcher.Commit, error) { return commit, f.knows(commit) }
	}
	for try := 1; ; try++ {
		commit, err := do(ctx, c.calls, what, read, nil)
		if errors.Is(err, errHalfRef) && try < refTries {
			select {
			case <-time.After(refPause):
				continue
			case <-ctx.Done():
				return fetcher.Resolution{}, fmt.Errorf("%s: %w", what, context.Cause(ctx))
			}
		}
		if errors.Is(err, fetcher.ErrAbsent) || errors.Is(err, errHalfRef) {
			err = fmt.Errorf("%w: %w", fetcher.ErrRevisionNotFound, err)
		}
		if err != nil {
			return fetcher.Resolution{}, fmt.Errorf("%s: %w", what, err)
		}
		return fetcher.Resolution{Commit: commit}, nil
	}
}

// enter opens the folder of repo, of which an Authority knows nothing if there is none.
func (c *Cache) enter(ctx context.Context, what string, repo fetcher.Repo) (*folder, error) {
	f, err := do(ctx, c.calls, what, func() (*folder, error) { return c.openFolder(repo) }, (*folder).close)
	if errors.Is(err, fetcher.ErrAbsent) {
		err = fmt.Errorf("%w: %w", fetcher.ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return f, nil
}

// knows returns ErrAbsent unless there is a snapshot or a tree of commit. It may hang.
func (f *folder) knows(commit fetcher.Commit) error {
	for _, name := range []string{snapshotDir(commit), treeFile(commit)} {
		if has, err := f.has(name); has || err != nil {
			return err
		}
	}
	return f.neither(commit)
}

func (f *folder) neither(commit fetcher.Commit) error {
	return fmt.Errorf("%w: neither %s nor %s is there", fetcher.ErrAbsent, f.shown(snapshotDir(commit)), treeFile(commit))
}

// readRef returns what the file refs/<name> says. It may hang.
func (f *folder) readRef(name string) (fetcher.Commit, error) {
	file, err := f.open("refs/" + name)
	if err != nil {
		return fetcher.Commit{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxRefFile))
	if err != nil {
		return fetcher.Commit{}, f.explain("refs/"+name, err)
	}
	commit, err := parseRefFile(text)
	if err != nil {
		return fetcher.Commit{}, fmt.Errorf("%s %w", f.shown("refs/"+name), err)
	}
	return commit, nil
}

// parseRefFile reads a commit, and overlooks the end of a line, which editors add.
func parseRefFile(text []byte) (fetcher.Commit, error) {
	commit, err := fetcher.ParseCommit(strings.TrimRight(string(text), "\r\n"))
	if err != nil {
		return fetcher.Commit{}, errHalfRef
	}
	return commit, nil
}

// beingWritten is how huggingface_hub names a ref's file before it renames it.
var beingWritten = regexp.MustCompile(`\.[0-9a-f]{8}\.tmp$`)

// Refs returns what each ref of repo names, those left out that are not whole.
func (c *Cache) Refs(ctx context.Context, repo fetcher.Repo) (map[string]fetcher.Commit, error) {
	what := fmt.Sprintf("list the refs of %s in %s", repo, c.dir)
	f, err := c.enter(ctx, what, repo)
	if err != nil {
		return nil, err
	}
	defer f.close()
	found := map[string]fetcher.Commit{}
	l := &lister{cache: c, folder: f, ctx: ctx, what: what, maxEntries: maxRefs}
	err = l.walk("refs", func(e entry) error {
		name := path.Join(e.dir, e.name)
		ref, err := fetcher.ParseRef(name)
		if err != nil || e.isDir() || beingWritten.MatchString(name) {
			return nil
		}
		commit, err := do(ctx, c.calls, what, func() (fetcher.Commit, error) { return f.readRef(name) }, nil)
		if err == nil {
			found[ref.String()] = commit
		} else if !errors.Is(err, fetcher.ErrAbsent) && !errors.Is(err, errHalfRef) {
			return err
		}
		return nil
	})
	if err != nil && !errors.Is(err, fetcher.ErrAbsent) {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return found, nil
}
