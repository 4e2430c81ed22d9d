package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/ballast-csi/ballast/e2e/pod/report"
	"golang.org/x/sys/unix"
)

// attack tries everything there is against the read-only volume at dir: where it is,
// in a mount namespace of its own, and in a user namespace's as well. It writes
// nowhere but in dir and below scratch, and uses no device. Last, because then dir is
// no more, it unmounts.
func attack(dir, scratch string, w io.Writer) error {
	a, err := newAttacker(dir, scratch, "", w)
	if err != nil {
		return err
	}
	defer a.root.Close()
	if err := a.everything(); err != nil {
		return err
	}
	for _, namespace := range []struct {
		where string
		flags uintptr
	}{
		{"in a mount namespace", 0},
		{"in a user and mount namespace", unix.CLONE_NEWUSER},
	} {
		if err := a.again(namespace.where, namespace.flags); err != nil {
			if err := a.say(namespace.where, err, false); err != nil {
				return err
			}
		}
	}
	return a.try(attempt{"umount, and what is beneath", unmounted})
}

// attackAgain is what the command does in a namespace that attack made.
func attackAgain(dir, scratch, where string, w io.Writer) error {
	a, err := newAttacker(dir, scratch, where, w)
	if err != nil {
		return err
	}
	defer a.root.Close()
	return a.everything()
}

// attacker attacks one volume from one namespace.
type attacker struct {
	dir     string
	root    *os.Root // dir as it was at the start, also when it is unmounted
	scratch string
	where   string // the namespace; empty: the container's own
	out     *json.Encoder
	tries   int
}

func newAttacker(dir, scratch, where string, w io.Writer) (*attacker, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &attacker{dir: dir, root: root, scratch: scratch, where: where, out: json.NewEncoder(w)}, nil
}

// attempt is one way to get at the volume. try returns nil if the kernel let it
// through, and then the directory at which the volume may be writable.
type attempt struct {
	name string
	try  func(t target) (writable string, err error)
}

// target is what an attempt is made on.
type target struct {
	dir     string // the volume
	name    string // a file of it that has bytes, relative
	first   byte   // that file's first
	fresh   string // a path in dir that is free
	scratch string // an empty directory elsewhere, to mount on
}

func (t target) file() string { return filepath.Join(t.dir, t.name) }

// attempts are all there are, in this order: what a remount allows stays allowed.
func attempts() []attempt {
	return slices.Concat(fileAttempts(), byteAttempts(), vainAttempts(), mountAttempts())
}

func (a *attacker) everything() error {
	for _, attempt := range attempts() {
		if err := a.try(attempt); err != nil {
			return fmt.Errorf("%s: %w", attempt.name, err)
		}
	}
	return nil
}

// again runs this program in a new mount namespace, and in those that flags ask for,
// and there everything.
func (a *attacker) again(where string, flags uintptr) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "attack", a.dir, a.scratch, where)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: flags, Unshareflags: unix.CLONE_NEWNS}
	if flags&unix.CLONE_NEWUSER != 0 {
		same := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = same, same
	}
	return cmd.Run()
}

// try makes one attempt and says how it went. Its own error is that it could not.
func (a *attacker) try(attempt attempt) error {
	t, err := a.aim()
	if err != nil {
		return err
	}
	before, err := a.fingerprint()
	if err != nil {
		return err
	}
	if t.scratch, err = os.MkdirTemp(a.scratch, "attack-"); err != nil {
		return err
	}
	writable, failed := attempt.try(t)
	if failed == nil && writable != "" {
		_ = scribble(filepath.Join(writable, t.name), unix.O_RDWR|unix.O_NOFOLLOW, t.first) // the fingerprint tells
	}
	_ = unix.Unmount(t.scratch, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // most mount nothing there
	if err := os.Remove(t.scratch); err != nil {                      // not RemoveAll, which would see a mount
		return err
	}
	if failed != nil {
		return a.say(attempt.name, failed, false)
	}
	after, err := a.fingerprint()
	if err != nil {
		return err
	}
	return a.say(attempt.name, nil, !maps.Equal(before, after))
}

func (a *attacker) say(name string, err error, changed bool) error {
	if a.where != "" {
		name = a.where + ": " + name
	}
	line := report.Attempt{Attempt: name, Changed: changed}
	if err != nil {
		line.Error = err.Error()
	}
	return a.out.Encode(line)
}

// errFound ends a walk early.
var errFound = errors.New("found")

// aim picks what the next attempt is made on: attempts that succeed use files up.
func (a *attacker) aim() (target, error) {
	a.tries++
	t := target{dir: a.dir, fresh: filepath.Join(a.dir, fmt.Sprintf("attack-%d-%d", os.Getpid(), a.tries))}
	err := fs.WalkDir(a.root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := a.root.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		first := make([]byte, 1)
		if _, err := io.ReadFull(f, first); err != nil {
			return nil // it is empty
		}
		t.name, t.first = path, first[0]
		return errFound
	})
	if errors.Is(err, errFound) {
		return t, nil
	}
	return t, errors.Join(errors.New("the volume has no file to attack"), err)
}

// fingerprint is all of the volume that an attempt could change, by path.
func (a *attacker) fingerprint() (map[string]string, error) {
	ctx, stop := untilStopped()
	defer stop()
	all, err := read(ctx, a.root)
	if err != nil {
		return nil, err
	}
	top, err := entryOf(ctx, a.root, ".")
	if err != nil {
		return nil, err
	}
	prints := map[string]string{}
	for _, e := range append(all.Entries, top) {
		stat, err := a.root.Lstat(e.Path)
		if err != nil {
			return nil, err
		}
		owner := stat.Sys().(*syscall.Stat_t)
		print := fmt.Sprintf("%+v %d:%d %s", e, owner.Uid, owner.Gid, stat.ModTime())
		if e.Type == "file" || e.Type == "directory" {
			attributes, err := attributesOf(a.root, e.Path)
			if err != nil {
				return nil, err
			}
			print += attributes
		}
		prints[e.Path] = print
	}
	return prints, nil
}

// attributesOf returns the names of a file's extended attributes, and its flags.
func attributesOf(root *os.Root, path string) (string, error) {
	f, err := root.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(f.Fd()), names)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return "", fmt.Errorf("%s: flistxattr: %w", path, err)
	}
	flags, _ := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS) // not every file system has them
	return fmt.Sprintf(" %q %#x", names[:max(n, 0)], flags), nil
}
