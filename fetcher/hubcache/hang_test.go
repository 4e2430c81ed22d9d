package hubcache

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// remote is a cache on a file server, with one file.
type remote struct {
	*fuse
	cache *Cache
	rev   fetcher.Revision
	file  fetcher.File
}

func newRemote(t *testing.T, patience time.Duration) remote {
	t.Helper()
	l := newLayout(t)
	f := l.add("org/name", commitA, "a.safetensors", strings.Repeat("x", 3<<20))
	l.write("org/name", "refs/main", commitA)
	s := serveFuse(t, l.settle().dir)
	r := remote{s, must[*Cache](t)(New(Config{Dir: s.dir, Patience: patience})), revOf(t, "org/name", commitA), f}
	r.wantWell(t)
	return r
}

// wantWell wants the file, however short the patience of r.cache is.
func (r remote) wantWell(t *testing.T) {
	t.Helper()
	wantContent(t, cacheAt(t, r.dir), r.rev, r.file, strings.Repeat("x", 3<<20))
}

// soon fails the test if do takes longer than a busy machine needs.
func soon(t *testing.T, do func()) {
	t.Helper()
	began := time.Now()
	do()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestAnOpenThatHangsIsLeft(t *testing.T) {
	for what, kind := range map[string]uint32{"looking up": fuseLookup, "opening": fuseOpen, "following": fuseReadlink} {
		t.Run(what, func(t *testing.T) {
			r := newRemote(t, 200*time.Millisecond)
			r.hang(kind)
			f := r.file
			if kind == fuseReadlink {
				f.Size++ // so that its snapshot's link is tried
			}
			soon(t, func() {
				if _, err := r.cache.Open(t.Context(), r.rev, f, fetcher.Secret{}); !fetcher.Unreachable(err) || !strings.Contains(err.Error(), "did not answer in 200ms") {
					t.Error(err)
				}
			})
			if r.hanging() == 0 {
				t.Error("nothing hung")
			}
		})
	}
}

func TestAFileThatOpensTooLateIsClosed(t *testing.T) {
	r := newRemote(t, 100*time.Millisecond)
	before := r.count(fuseRelease)
	r.hang(fuseOpen)
	if _, err := r.cache.Open(t.Context(), r.rev, r.file, fetcher.Secret{}); !fetcher.Unreachable(err) {
		t.Fatal(err)
	}
	r.let()
	for began := time.Now(); r.count(fuseRelease) == before; time.Sleep(time.Millisecond) {
		if time.Since(began) > 5*time.Second {
			t.Fatal("it is still open")
		}
	}
	r.wantWell(t)
}

func TestTheEndOfAContextEndsAnOpenThatHangs(t *testing.T) {
	r := newRemote(t, time.Hour)
	r.hang(fuseLookup)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("nobody wants it")
	time.AfterFunc(100*time.Millisecond, func() { cancel(gone) })
	soon(t, func() {
		if _, err := r.cache.Open(ctx, r.rev, r.file, fetcher.Secret{}); !errors.Is(err, gone) || fetcher.Transient(err) {
			t.Error(err)
		}
	})
}

func TestAReadThatHangsIsLeft(t *testing.T) {
	for _, end := range []string{"patience", "context"} {
		t.Run(end, func(t *testing.T) {
			r := newRemote(t, 2*time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := must[fetcher.Object](t)(r.cache.Open(t.Context(), r.rev, r.file, fetcher.Secret{}))
			body := must[io.ReadCloser](t)(o.ReadRange(ctx, 0, r.file.Size))
			if _, err := io.ReadFull(body, make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			r.hang(fuseRead)
			if end == "context" {
				cancel()
			}
			soon(t, func() {
				_, err := body.Read(make([]byte, 1<<20))
				if end == "patience" && !fetcher.Unreachable(err) || end == "context" && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				if _, again := body.Read(make([]byte, 1)); again != err {
					t.Errorf("the next read says %v", again)
				}
				body.Close()
				o.Close()
			})
		})
	}
}

func TestAFileWhoseCloseHangsIsLeft(t *testing.T) {
	r := newRemote(t, time.Hour)
	o := must[fetcher.Object](t)(r.cache.Open(t.Context(), r.rev, r.file, fetcher.Secret{}))
	r.hang(fuseFlush)
	soon(t, func() { o.Close() })
	if r.hanging() == 0 {
		t.Error("nothing hung")
	}
}

// Each call that hangs keeps a thread, so their number is bounded, and one more is
// refused at once; when the server is back all is well.
func TestNoMoreCallsHangThanAreBounded(t *testing.T) {
	r := newRemote(t, time.Second)
	r.hang(fuseLookup)
	open := func() error {
		_, err := r.cache.Open(t.Context(), r.rev, r.file, fetcher.Secret{})
		return err
	}
	var tries sync.WaitGroup
	for range maxCalls + 36 {
		tries.Go(func() {
			if err := open(); !fetcher.Unreachable(err) {
				t.Error(err)
			}
		})
	}
	soon(t, tries.Wait)
	if n := len(r.cache.calls.slots); n != maxCalls {
		t.Errorf("%d calls hang; want %d", n, maxCalls)
	}
	began := time.Now()
	err := open()
	if took := time.Since(began); took > 900*time.Millisecond || !fetcher.Unreachable(err) || !strings.Contains(err.Error(), "64 calls of it hang") {
		t.Errorf("after %s: %v", took, err)
	}
	r.let()
	for began := time.Now(); len(r.cache.calls.slots) > 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > 5*time.Second {
			t.Fatal("the calls go on hanging")
		}
	}
	wantContent(t, r.cache, r.rev, r.file, strings.Repeat("x", 3<<20))
}

func TestAnAuthorityThatHangsIsLeft(t *testing.T) {
	for what, kind := range map[string]uint32{"looking up": fuseLookup, "opening a directory": fuseOpendir, "listing": fuseReaddir, "following": fuseReadlink} {
		t.Run(what, func(t *testing.T) {
			r := newRemote(t, 200*time.Millisecond)
			r.hang(kind)
			soon(t, func() {
				if _, err := r.cache.Manifest(t.Context(), r.rev, fetcher.Secret{}); !fetcher.Unreachable(err) {
					t.Errorf("Manifest: %v", err)
				}
				if kind == fuseLookup {
					if _, err := r.cache.Resolve(t.Context(), r.rev.Repo, refOf(t, "main"), fetcher.Secret{}); !fetcher.Unreachable(err) {
						t.Errorf("Resolve: %v", err)
					}
				}
				if kind != fuseReadlink {
					if _, err := r.cache.Refs(t.Context(), r.rev.Repo); !fetcher.Unreachable(err) {
						t.Errorf("Refs: %v", err)
					}
				}
			})
		})
	}
}

func TestAFileServerInTroubleIsUnreachable(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EIO, unix.ESTALE, unix.ENOTCONN, unix.ETIMEDOUT} {
		for what, kind := range map[string]uint32{"looking up": fuseLookup, "opening": fuseOpen, "reading": fuseRead} {
			r := newRemote(t, time.Minute)
			r.fail(kind, errno)
			if _, err := read(t, r.cache, r.rev, r.file); !fetcher.Unreachable(err) || !errors.Is(err, errno) {
				t.Errorf("%v in %s: %v", errno, what, err)
			}
		}
	}
}

func TestAFileServerThatRefusesOnlyReadingIsUnreadable(t *testing.T) {
	r := newRemote(t, time.Minute)
	r.fail(fuseRead, unix.EACCES)
	if _, err := read(t, r.cache, r.rev, r.file); !errors.Is(err, fetcher.ErrUnreadable) || fetcher.Transient(err) || !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
}
