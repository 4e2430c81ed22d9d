package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// local is an Authority and a Source in memory, as a shared cache is: what it says it has.
type local struct {
	name  string
	t     testing.TB
	plain bool // all is named by sha256

	mu    sync.Mutex // guards what follows
	refs  map[string]fetcher.Commit
	lists map[fetcher.Revision]*fetcher.Manifest
	bytes map[fetcher.Digest][]byte
	err   error // what everything is answered with, if set
	asked []string
	given map[string]int // by path, how often the bytes were asked for
	held  chan struct{}  // what is no config.json is given once it is closed
}

func newLocal(t testing.TB, name string) *local {
	return &local{
		name: name, t: t, refs: map[string]fetcher.Commit{}, lists: map[fetcher.Revision]*fetcher.Manifest{}, bytes: map[fetcher.Digest][]byte{}, given: map[string]int{},
	}
}

// holds gives l a commit, and has main name it.
func (l *local) holds(repo, commit string, files map[string][]byte) {
	l.t.Helper()
	r, err := fetcher.ParseRepo(repo)
	must(l.t, err)
	c, err := fetcher.ParseCommit(commit)
	must(l.t, err)
	m := storetest.Manifest(l.t, r, c, files, func(path string) bool { return l.plain || len(files[path]) > 1024 })
	m.Authority = l.name
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refs[repo+"@main"] = c
	l.lists[m.Revision] = m
	for _, f := range m.Files {
		l.bytes[f.Digest] = files[f.Path.String()]
	}
}

// with has the agent ask l beside the Hub, and opens what it says to the namespace team.
func (w *world) with(l *local) *world {
	w.cfg.Open = append(w.cfg.Open, agent.Opening{Authority: l.name, Namespaces: []string{"team"}})
	w.edit = func(c *agent.Config) {
		c.Authorities = []fetcher.Authority{l}
		c.Sources = append([]fetcher.Source{l}, c.Sources...)
	}
	return w
}

func commitAll(digit rune) string { return strings.Repeat(string(digit), 40) }

// fails has l answer everything with err from now on; nil mends it.
func (l *local) fails(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// hold has l give nothing but config.json until release is called.
func (l *local) hold() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = make(chan struct{})
	return func() { close(l.held) }
}

// take returns what was asked since it was last called.
func (l *local) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked
	l.asked = nil
	return asked
}

func (l *local) Name() string { return l.name }

func (l *local) ask(what any, cred fetcher.Secret) error {
	l.asked = append(l.asked, fmt.Sprint(what))
	if !cred.IsZero() {
		l.t.Errorf("%s was given a token, to ask about %v", l.name, what)
	}
	return l.err
}

func (l *local) Resolve(_ context.Context, repo fetcher.Repo, ref fetcher.Ref, cred fetcher.Secret) (fetcher.Resolution, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ask(repo.String()+"@"+ref.String(), cred); err != nil {
		return fetcher.Resolution{}, err
	}
	known := false
	for rev := range l.lists {
		known = known || rev.Repo == repo
	}
	commit, pinned := ref.Commit()
	if !pinned {
		commit = l.refs[repo.String()+"@"+ref.String()]
	}
	switch {
	case !known:
		return fetcher.Resolution{}, fmt.Errorf("%s: %s: %w", l.name, repo, fetcher.ErrNotFound)
	case l.lists[fetcher.Revision{Repo: repo, Commit: commit}] == nil:
		return fetcher.Resolution{}, fmt.Errorf("%s: %s of %s: %w", l.name, ref, repo, fetcher.ErrRevisionNotFound)
	}
	return fetcher.Resolution{Commit: commit}, nil
}

func (l *local) Manifest(_ context.Context, rev fetcher.Revision, cred fetcher.Secret) (*fetcher.Manifest, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ask(rev, cred); err != nil {
		return nil, err
	}
	if m := l.lists[rev]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%s: %s: %w", l.name, rev, fetcher.ErrRevisionNotFound)
}

func (l *local) Open(ctx context.Context, _ fetcher.Revision, f fetcher.File, _ fetcher.Secret) (fetcher.Object, error) {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	if held != nil && f.Path.String() != "config.json" {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, &fetcher.UnreachableError{Err: ctx.Err()}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if data, ok := l.bytes[f.Digest]; ok {
		l.given[f.Path.String()]++
		return localObject{data}, l.err
	}
	return nil, fmt.Errorf("%s: %s: %w", l.name, f.Path, fetcher.ErrAbsent)
}

type localObject struct{ data []byte }

func (o localObject) ReadRange(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o.data[off : off+n])), nil
}

func (localObject) Close() error { return nil }
