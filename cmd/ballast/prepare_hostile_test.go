package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the agent's uid may do in its own directories while prepare, which is root,
// works there.

// precious is what no prepare may change: a file and a directory of somebody else's, and
// the directory is empty, or prepare would leave it alone for what it holds.
type precious struct{ file, dir string }

func newPrecious(t *testing.T) precious {
	t.Helper()
	top := filepath.Join(shortDir(t), "precious")
	p := precious{filepath.Join(top, "file"), filepath.Join(top, "dir")}
	must(t, os.MkdirAll(p.dir, 0o711))
	must(t, os.WriteFile(p.file, []byte("precious"), 0o600))
	return p
}

// state is all of it that chmod, chown, link and write change.
func (p precious) state(t *testing.T) string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(filepath.Dir(p.dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		uid, gid := owners(info)
		all = append(all, fmt.Sprint(path, info.Mode(), uid, gid, info.Size(), info.ModTime()))
		return err
	}))
	return strings.Join(all, "\n")
}

func TestPrepareChangesNothingThatItsDirectoriesLeadTo(t *testing.T) {
	p, other := newPreparing(t), newPrecious(t)
	p.mustPrepare()
	at := func(name string) string { return filepath.Join(p.cache, name) }
	for name, to := range map[string]string{"blobs": other.dir, "version": other.file, trial: other.file, trialLink: other.dir} {
		must(t, os.Symlink(to, at(name)))
	}
	must(t, os.Symlink(other.file, filepath.Join(p.run, "agent.sock")))
	must(t, os.Link(other.file, at("hard link")))
	must(t, unix.Mkfifo(at("FIFO"), 0o600))
	must(t, os.Mkdir(at("mount"), 0o700))
	must(t, unix.Mount(other.dir, at("mount"), "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(at("mount"), 0)) }()
	before := other.state(t)
	p.mustPrepare()
	if after := other.state(t); after != before {
		t.Errorf("changed:\n%s\nit was\n%s", after, before)
	}

	must(t, os.Link(other.file, at(trial)))
	p.mustPrepare()
	must(t, unix.Mkfifo(at(trial), 0o600))
	must(t, unix.Mkfifo(at(trialLink), 0o600))
	p.mustPrepare()
	if after := other.state(t); after != before {
		t.Errorf("changed:\n%s\nit was\n%s", after, before)
	}
}

func TestPrepareWhileNamesAreSwappedChangesNothingElse(t *testing.T) {
	p, other := newPreparing(t), newPrecious(t)
	p.mustPrepare()
	inside, err := unix.Open(p.cache, unix.O_PATH|unix.O_DIRECTORY, 0) // wherever it is called
	must(t, err)
	defer unix.Close(inside)
	before := other.state(t)
	stop := make(chan struct{})
	var running sync.WaitGroup
	defer running.Wait()
	defer close(stop)
	loop := func(do func()) {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					do()
				}
			}
		})
	}
	loop(func() { // more than the agent may: the name in a directory that is root's
		link, dir := p.cache+"-link", p.cache
		_ = os.Symlink(other.dir, link)
		_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	})
	loop(func() {
		for _, name := range []string{trial, trialLink} {
			_ = unix.Symlinkat(other.file, inside, name)
			_ = unix.Unlinkat(inside, name, 0)
			_ = unix.Linkat(unix.AT_FDCWD, other.file, inside, name, 0)
			_ = unix.Unlinkat(inside, name, 0)
		}
	})
	worked, refused := 0, 0
	for start := time.Now(); (worked+refused < 500 || worked < 5 || refused < 5) && time.Since(start) < 20*time.Second; {
		if p.prepare() == nil {
			worked++
		} else {
			refused++
		}
	}
	if t.Logf("%d worked, %d were refused", worked, refused); worked < 5 || refused < 5 {
		t.Error("too few of one kind: this says little")
	}
	if after := other.state(t); after != before {
		t.Errorf("changed:\n%s\nit was\n%s", after, before)
	}
}
