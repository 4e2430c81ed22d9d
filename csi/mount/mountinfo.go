package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Info is one line of mountinfo (proc_pid_mountinfo(5)), with its escapes undone.
type Info struct {
	Device   string // major:minor of the superblock
	Root     string // the mounted directory's path in its file system; its last one if it was removed
	Target   string // where it is mounted
	FSType   string
	Source   string // for a Ballast overlay: Source(volume id, target)
	ReadOnly bool   // the superblock or this mount of it is read-only
	// SuperReadOnly: the superblock is, so that no remount of one mount can undo it.
	SuperReadOnly bool
	// View is set for a bind of something of the cache: its path, relative to the cache
	// directory.
	View string
}

// deleted is what the kernel puts behind the path of a directory that was removed
// (dentry_path in fs/d_path.c). No path has two slashes in a row otherwise.
const deleted = "//deleted"

const mountinfoPath = "/proc/self/mountinfo"

// Lookup returns what is mounted on target: the uppermost if there are several, as
// mountinfo says. What is mounted is not itself asked: it may hang.
func (m *Mounter) Lookup(target string) (Info, bool, error) {
	dir, base, err := splitTarget(target)
	if err != nil {
		return Info{}, false, err
	}
	dir, err = resolve(dir)
	if err != nil {
		return Info{}, false, fmt.Errorf("look up mount on %s: %w", target, err)
	}
	mounts, err := mounts()
	if err != nil {
		return Info{}, false, fmt.Errorf("look up mount on %s: %w", target, err)
	}
	info, found := on(mounts, filepath.Join(dir, base))
	if found {
		if cache, err := m.locate(mounts); err == nil {
			info.View = cache.view(info)
		}
	}
	return info, found, nil
}

// Mounts returns every mount that may show something of this cache, wherever it is, in
// one reading of mountinfo: those with a source of Ballast's (also a part of an
// overlay, mounted elsewhere: a subPath), and binds of what is beneath the cache
// directory (View is set). An overlay of another cache cannot be told from one of this.
func (m *Mounter) Mounts() ([]Info, error) {
	all, err := mounts()
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	cache, err := m.locate(all)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var ours []Info
	for _, info := range all {
		info.View = cache.view(info)
		if info.View != "" || strings.HasPrefix(info.Source, SourcePrefix) {
			ours = append(ours, info)
		}
	}
	return ours, nil
}

// maxLinks is how many links resolve follows, as many as the kernel does.
const maxLinks = 40

// resolve returns dir, which is absolute, as mountinfo shows it: without links, and
// kubelet's directory is often behind one. What of it is not to be seen is taken as it
// is, also behind a link: something may be mounted over it, and what is mounted below
// is still there.
func resolve(dir string) (string, error) {
	done, left := "/", dir
	for links := 0; left != ""; {
		name, rest, _ := strings.Cut(left, "/")
		path := filepath.Join(done, name) // ".." too: there is no link in done
		to, err := os.Readlink(path)
		switch {
		case errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist): // no link
			done, left = path, rest
			continue
		case err != nil:
			return "", err
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve %s: %w", dir, unix.ELOOP)
		}
		if filepath.IsAbs(to) {
			done = "/"
		}
		left = to + "/" + rest
	}
	return done, nil
}

// on returns the mount that covers target: the last one in the list.
func on(mounts []Info, target string) (Info, bool) {
	for _, info := range slices.Backward(mounts) {
		if info.Target == target {
			return info, true
		}
	}
	return Info{}, false
}

// place is a directory's place in its file system.
type place struct{ device, path string }

// locate returns the cache directory's place, from the mount that holds it.
func (m *Mounter) locate(mounts []Info) (place, error) {
	cache, err := filepath.EvalSymlinks(m.cacheDir)
	if err != nil {
		return place{}, fmt.Errorf("find the cache directory: %w", err)
	}
	for dir := cache; ; dir = filepath.Dir(dir) {
		if holder, found := on(mounts, dir); found {
			return place{holder.Device, filepath.Join(holder.Root, strings.TrimPrefix(cache, dir))}, nil
		}
		if dir == "/" {
			return place{}, fmt.Errorf("mountinfo has no mount that holds %s", cache)
		}
	}
}

// view returns the path of the directory that info mounts, relative to p, or "" if it
// is not beneath it.
func (p place) view(info Info) string {
	rel, err := filepath.Rel(p.path, info.Root)
	if err != nil || info.Device != p.device || rel == "." || !filepath.IsLocal(rel) {
		return ""
	}
	return rel
}

func mounts() ([]Info, error) {
	f, err := os.Open(mountinfoPath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

// parse reads mountinfo. A line it cannot read is an error: whoever asks is about to
// decide that something is not mounted.
func parse(r io.Reader) ([]Info, error) {
	var mounts []Info
	lines := bufio.NewReader(r) // not a Scanner: an overlay's options make a line of any length
	for n := 1; ; n++ {
		line, err := lines.ReadString('\n')
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read mountinfo: %w", err)
		}
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			info, ok := parseLine(line)
			if !ok {
				return nil, fmt.Errorf("mountinfo line %d: unexpected form: %.200q", n, line)
			}
			mounts = append(mounts, info)
		}
		if err == io.EOF {
			return mounts, nil
		}
	}
}

// parseLine reads
//
//	36 35 98:0 /root /target rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue
//
// with any number of optional fields before the "-". A source may be empty, which
// leaves two spaces.
func parseLine(line string) (Info, bool) {
	f := strings.Split(line, " ")
	const fixed, after = 6, 4 // fields before the optional ones; fields from "-" on
	if len(f) < fixed+after {
		return Info{}, false
	}
	dash := slices.Index(f[fixed:], "-") + fixed
	if dash < fixed || len(f) < dash+after {
		return Info{}, false
	}
	options, super := strings.Split(f[5], ","), strings.Split(f[dash+3], ",")
	superReadOnly := slices.Contains(super, "ro")
	return Info{
		Device: f[2], Root: strings.TrimSuffix(unescape(f[3]), deleted), Target: unescape(f[4]),
		FSType: f[dash+1], Source: unescape(f[dash+2]),
		ReadOnly:      superReadOnly || slices.Contains(options, "ro"),
		SuperReadOnly: superReadOnly,
	}, true
}

// unescape undoes the kernel's \ooo for space, tab, newline, backslash and '#'
// (seq_path and mangle in fs/proc_namespace.c).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	octal := func(c byte) bool { return '0' <= c && c <= '7' }
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] <= '3' && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// CheckKernel returns an error if this kernel is older than Linux 5.15, the oldest
// on which Ballast's mounts are tried.
func CheckKernel() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	return checkRelease(unix.ByteSliceToString(name.Release[:]))
}

func checkRelease(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("kernel release %q: unexpected form; Ballast needs Linux 5.15 or newer", release)
	}
	if major < 5 || major == 5 && minor < 15 {
		return fmt.Errorf("this is Linux %s; Ballast needs 5.15 or newer for its mounts", release)
	}
	return nil
}
