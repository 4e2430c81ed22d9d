package hubcache

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// folder is the folder of a Repo, open to look things up beneath it.
type folder struct {
	dir  *os.File // O_PATH
	path string
}

// folderName is a Repo's folder in a cache (huggingface_hub, repo_folder_name).
func folderName(r fetcher.Repo) string { return string(r.Kind()) + "s--" + r.Flat() }

// openFolder opens the folder of repo. It may hang. That there is none is ErrAbsent;
// that there is no cache directory at all is Unreachable, since no Repo's absence
// follows from it.
func (c *Cache) openFolder(repo fetcher.Repo) (*folder, error) {
	fd, err := unix.Open(c.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case denied(err):
		return nil, whoMay("/", strings.TrimPrefix(c.dir, "/"), c.dir)
	case err != nil:
		return nil, &fetcher.UnreachableError{Err: fmt.Errorf("hub cache %s: %w", c.dir, err)}
	}
	root := os.NewFile(uintptr(fd), c.dir)
	defer root.Close()
	name := folderName(repo)
	var found *folder
	for _, at := range []string{name, "hub/" + name} {
		f := &folder{root, c.dir}
		// A link in its place would make another Repo's bytes this one's.
		fd, err = f.openat(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err == nil {
			found = &folder{os.NewFile(uintptr(fd), at), path.Join(c.dir, at)}
			break
		}
		if err = f.explain(at, err); !errors.Is(err, fetcher.ErrAbsent) {
			return nil, err
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%w: %s has no folder %s, nor has its hub/", fetcher.ErrAbsent, c.dir, name)
	}
	return found, nil
}

// close closes what never hangs: an O_PATH descriptor.
func (f *folder) close() { _ = f.dir.Close() }

// openat opens name, which may be or go through links as long as they stay in f.
func (f *folder) openat(name string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for try := 0; ; try++ {
		fd, err := -1, error(nil)
		using := using(f.dir, func(dir int) { fd, err = unix.Openat2(dir, name, how) })
		// EAGAIN: something was renamed somewhere while ".." was looked up.
		if err == unix.EINTR || err == unix.EAGAIN && try < 1000 {
			continue
		}
		return fd, errors.Join(using, err)
	}
}

// using calls do with the descriptor of f, which is f's until do returns: a call that
// was left may go on after f was closed, and must not use what has its number then.
func using(f *os.File, do func(fd int)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { do(int(fd)) })
}

// content is a file of a cache, open for reading.
type content struct {
	*os.File
	stat unix.Stat_t // when it was opened
}

// open opens the regular file name. It may hang.
func (f *folder) open(name string) (*content, error) {
	// Nothing waits for a FIFO's other end, and no terminal becomes ours.
	fd, err := f.openat(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, f.explain(name, err)
	}
	c := &content{}
	if err = unix.Fstat(fd, &c.stat); err == nil && c.stat.Mode&unix.S_IFMT == unix.S_IFREG {
		// os.NewFile would poll a file that does not block, which a file system may hang on.
		err = unix.SetNonblock(fd, false)
	}
	switch {
	case err != nil:
		unix.Close(fd)
		return nil, f.explain(name, err)
	case c.stat.Mode&unix.S_IFMT != unix.S_IFREG:
		unix.Close(fd)
		return nil, f.absent(name, "is no regular file")
	}
	c.File = os.NewFile(uintptr(fd), f.shown(name))
	return c, nil
}

// openDir opens the directory name for listing it. It may hang.
func (f *folder) openDir(name string) (*os.File, error) {
	fd, err := f.openat(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, f.explain(name, err)
	}
	return os.NewFile(uintptr(fd), f.shown(name)), nil
}

// has reports whether there is anything at name. It may hang.
func (f *folder) has(name string) (bool, error) {
	fd, err := f.openat(name, unix.O_PATH)
	if err != nil {
		if err = f.explain(name, err); errors.Is(err, fetcher.ErrAbsent) {
			return false, nil
		}
		return false, err
	}
	return true, unix.Close(fd)
}

// explain says what an error of openat for name means, and what it is to a caller.
func (f *folder) explain(name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		if target, isLink := f.readlink(name); isLink {
			return &absentError{fmt.Sprintf("%s is a link to nothing: %.300q", f.shown(name), target), true}
		}
		return &absentError{f.shown(name) + " is not there", true}
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENXIO):
		return f.absent(name, "is not what it should be")
	case errors.Is(err, unix.ELOOP):
		return f.absent(name, "is a loop of links")
	case errors.Is(err, unix.EXDEV):
		return f.absent(name, "is a link that leads out of the folder of its repository, and not followed")
	case errors.Is(err, unix.ENAMETOOLONG):
		return f.absent(name, "is a name longer than the file system takes")
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("open %s: the system call openat2 is refused: it needs Linux 5.6, and no seccomp profile older than that", f.shown(name))
	case denied(err):
		return whoMay(f.path, name, f.path)
	}
	return unreachable("open", f.shown(name), err)
}

func (f *folder) absent(name, why string) error {
	return &absentError{f.shown(name) + " " + why, false}
}

// absentError is an ErrAbsent that says what is wrong with what was looked for.
type absentError struct {
	text string
	gone bool // nothing is wrong with it: it is not there
}

func (e *absentError) Error() string { return fetcher.ErrAbsent.Error() + ": " + e.text }

func (e *absentError) Unwrap() error { return fetcher.ErrAbsent }

// shown is the whole path of name, for people.
func (f *folder) shown(name string) string { return printable(path.Join(f.path, name)) }

// readlink returns where name itself leads, if it is a link.
func (f *folder) readlink(name string) (target string, isLink bool) {
	fd, err := f.openat(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	return string(buf[:max(n, 0)]), err == nil
}

// printable quotes what a stranger named, if it has characters that cannot be seen.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func denied(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) }

// unreachable is what an error of a file system is that says nothing about the file: a
// disk, a server or the way to it is in trouble (EIO, ESTALE, ENOTCONN and their like).
func unreachable(verb, where string, err error) error {
	return &fetcher.UnreachableError{Err: fmt.Errorf("%s %s: %w", verb, where, err)}
}
