package manifestfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/fetcher"
)

// DefaultName is the word for this Authority in records and events.
const DefaultName = "manifest"

const defaultPatience = 30 * time.Second

// Config says where the files are.
type Config struct {
	Name string // the Authority's. "": DefaultName
	Dir  string // holds the files, *.json; a mounted ConfigMap or Secret may be one
	// Patience is how long a question waits for the directory. 0: 30 s.
	Patience time.Duration
	Log      *zap.Logger // nil: none
}

// Files is a directory of manifest files, as a fetcher.Authority. It is safe for
// concurrent use.
type Files struct {
	name, dir string
	patience  time.Duration
	log       *zap.Logger

	turn  chan struct{}     // holds a token while a question is answered, even if nobody waits for that any more
	known map[string]*entry // by file name
}

// New checks cfg. It does not look at the directory, which may hang.
func New(cfg Config) (*Files, error) {
	switch {
	case cfg.Dir == "":
		return nil, errors.New("manifest files: no directory")
	case cfg.Patience < 0:
		return nil, fmt.Errorf("manifest files in %s: patience %s may not be negative", cfg.Dir, cfg.Patience)
	}
	return &Files{
		name: cmp.Or(cfg.Name, DefaultName), dir: cfg.Dir,
		patience: cmp.Or(cfg.Patience, defaultPatience), log: cmp.Or(cfg.Log, zap.NewNop()),
		turn: make(chan struct{}, 1), known: map[string]*entry{},
	}, nil
}

// Name is the Authority's.
func (f *Files) Name() string { return f.name }

// Resolve says what ref is by the files that answer for it.
func (f *Files) Resolve(ctx context.Context, repo fetcher.Repo, ref fetcher.Ref, _ fetcher.Secret) (fetcher.Resolution, error) {
	what := fmt.Sprintf("resolve %s at %s", repo, ref)
	pinned, _ := ref.Commit()
	found, err := do(ctx, f, what, func(ctx context.Context) ([]entry, error) {
		return f.ask(ctx, what, repo, func(h head) bool { return h.Commit == pinned || slices.Contains(h.Refs, ref) })
	})
	if err != nil {
		return fetcher.Resolution{}, err
	}
	for _, other := range found[1:] {
		if other.Commit != found[0].Commit {
			return fetcher.Resolution{}, fmt.Errorf("%s: %w: manifest files %s and %s name different commits: take one away",
				what, fetcher.ErrMalformed, found[0].name, other.name)
		}
	}
	return fetcher.Resolution{Commit: found[0].Commit}, nil
}

// Manifest is the listing of the files that are about rev.
func (f *Files) Manifest(ctx context.Context, rev fetcher.Revision, _ fetcher.Secret) (*fetcher.Manifest, error) {
	what := fmt.Sprintf("list the files of %s", rev)
	return do(ctx, f, what, func(ctx context.Context) (*fetcher.Manifest, error) { return f.manifest(ctx, what, rev) })
}

// manifest is Manifest. It is called with the turn, as is ask.
func (f *Files) manifest(ctx context.Context, what string, rev fetcher.Revision) (*fetcher.Manifest, error) {
	found, err := f.ask(ctx, what, rev.Repo, func(h head) bool { return h.Commit == rev.Commit })
	if err != nil {
		return nil, err
	}
	for _, other := range found[1:] {
		if other.sum != found[0].sum {
			return nil, fmt.Errorf("%s: %w: manifest files %s and %s list different files: take one away",
				what, fetcher.ErrMalformed, found[0].name, other.name)
		}
	}
	text, err := f.text(found[0].name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	_, m, err := parse(text, f.name)
	if err != nil || m.Revision != rev || sumOf(m) != found[0].sum {
		return nil, &fetcher.UnreachableError{Err: fmt.Errorf("%s: manifest file %s changes while it is read", what, found[0].name)}
	}
	return m, nil
}

// do has answer answer a question when it is its turn, and waits for both until ctx ends
// or the patience does. A file system may hang (a dead NFS server): an answer that nobody
// waits for any more ends when the call of it returns, and keeps the turn until then. So
// no more than one thread hangs, and whoever asks meanwhile is told the same in its time.
func do[T any](ctx context.Context, f *Files, what string, answer func(context.Context) (T, error)) (T, error) {
	ctx, leave := context.WithTimeoutCause(ctx, f.patience,
		&fetcher.UnreachableError{Err: fmt.Errorf("manifest files: %s did not answer in %s", f.dir, f.patience)})
	defer leave()
	type said struct {
		value T
		err   error
	}
	answers := make(chan said, 1)
	select {
	case f.turn <- struct{}{}:
		go func() {
			value, err := answer(ctx)
			<-f.turn
			answers <- said{value, err}
		}()
	case <-ctx.Done():
	}
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
}

// ask returns the files, at least one, that are about repo and match, in order of name.
func (f *Files) ask(ctx context.Context, what string, repo fetcher.Repo, match func(head) bool) ([]entry, error) {
	if err := f.look(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	var found, others []entry
	var bad []string
	for _, e := range f.known {
		switch {
		case e.bad != nil && (e.Repo == repo || e.Repo.IsZero()):
			bad = append(bad, fmt.Sprintf("; %s does not count: %v", e.name, e.bad))
		case e.bad != nil || e.Repo != repo:
		case match(e.head):
			found = append(found, *e)
		default:
			others = append(others, *e)
		}
	}
	if len(found) > 0 {
		slices.SortFunc(found, func(a, b entry) int { return strings.Compare(a.name, b.name) })
		return found, nil
	}
	slices.Sort(bad)
	why := strings.Join(bad[:min(len(bad), maxTold)], "")
	if len(others) > 0 {
		return nil, fmt.Errorf("%s: of it the manifest files in %s have %s%s: %w", what, f.dir, offered(others), why, fetcher.ErrRevisionNotFound)
	}
	return nil, fmt.Errorf("%s: no manifest file in %s is about it%s: %w", what, f.dir, why, fetcher.ErrNotFound)
}

// maxTold bounds what one error tells of bad files, and of Refs.
const maxTold = 5

// offered lists Refs and commits of files.
func offered(files []entry) string {
	var names []string
	for _, e := range files {
		names = append(names, e.Commit.String())
		for _, ref := range e.Refs {
			names = append(names, ref.String())
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(len(a), len(b)) }) // what people gave names first
	if len(names) > maxTold {
		names = append(names[:maxTold], "more")
	}
	return strings.Join(names, ", ")
}
