package mount

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Config says where the cache is.
type Config struct {
	// CacheDir is the cache directory, absolute. It need not exist yet; it may be
	// reached through symbolic links, what is beneath it may not.
	CacheDir string
}

// Mounter mounts directories of one cache. Its methods may be called concurrently
// for different targets; the caller serialises those for one target.
type Mounter struct{ cacheDir string }

// New checks the configuration and touches nothing.
func New(cfg Config) (*Mounter, error) {
	if !filepath.IsAbs(cfg.CacheDir) {
		return nil, fmt.Errorf("mount: cache directory %q must be an absolute path", cfg.CacheDir)
	}
	return &Mounter{filepath.Clean(cfg.CacheDir)}, nil
}

// Spec is one mount.
type Spec struct {
	View   string // the directory to show, relative to the cache directory
	Empty  string // a directory that is empty, relative to the cache directory; not needed for Bind
	Source string // what mountinfo shows as the source of an overlay: Source(volume id, target)
	Target string // where; absolute. Its parent must exist.
	// Bind asks for a read-only bind instead of an overlay. It can be idmapped, and it
	// has no superblock of its own: who may remount may make it writable.
	Bind bool
}

// SourcePrefix begins the source of every overlay that Ballast mounts.
const SourcePrefix = "ballast:"

// ErrMounted says that something is mounted on the target already.
var ErrMounted = errors.New("something is mounted there already")

// Source returns what mountinfo shows for a Volume's overlay: "ballast:" and the
// hex of sha256(volume id, NUL, target path), which is also its Pin's name.
func Source(volumeID, target string) string {
	sum := sha256.Sum256([]byte(volumeID + "\x00" + target))
	return SourcePrefix + hex.EncodeToString(sum[:])
}

// Mount shows s.View on s.Target, read-only, nosuid and nodev. It makes the target's
// last component (mode 0750), and removes it again if it fails. The target must be
// an empty directory with nothing mounted on it (ErrMounted).
func (m *Mounter) Mount(s Spec) (err error) {
	detached, err := m.detached(s)
	if err != nil {
		return fmt.Errorf("mount %s: %w", s.View, err)
	}
	defer unix.Close(detached)

	to, err := openTarget(s.Target)
	if err != nil {
		return fmt.Errorf("mount %s: %w", s.View, err)
	}
	defer func() { to.close(err != nil) }()
	if err := unix.MoveMount(detached, "", to.fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: attach to %s: move_mount: %w", s.View, s.Target, err)
	}
	return nil
}

// detached returns the descriptor of a mount that is nowhere yet.
func (m *Mounter) detached(s Spec) (int, error) {
	view, err := m.openBeneath(s.View)
	if err != nil {
		return -1, err
	}
	defer unix.Close(view)
	if s.Bind {
		return bind(view)
	}
	empty, err := m.openBeneath(s.Empty)
	if err != nil {
		return -1, err
	}
	defer unix.Close(empty)
	if err := checkEmpty(empty); err != nil {
		return -1, fmt.Errorf("%s: %w", s.Empty, err)
	}
	return overlay(s.Source, view, empty)
}

// openBeneath opens a directory of the cache. The kernel refuses every way out of it:
// an absolute path, "..", a symbolic or magic link anywhere, another mount. That holds
// at the moment of opening, and the descriptor is the directory from then on, whatever
// is renamed. What is no plain path is refused before, and not repeated in the error: it
// may be of any length.
func (m *Mounter) openBeneath(path string) (int, error) {
	if len(path) >= unix.PathMax || !filepath.IsLocal(path) || filepath.Clean(path) != path || path == "." {
		return -1, fmt.Errorf("path %.64q does not name a directory beneath the cache", path)
	}
	root, err := unix.Open(m.cacheDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open cache directory %s: %w", m.cacheDir, err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(root, path, &how)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return -1, fmt.Errorf("open %q beneath %s: %w", path, m.cacheDir, err)
		}
		return fd, nil
	}
}

// overlay makes a detached overlay of lower layers only: with no upper layer its
// superblock can be nothing but read-only, whatever a remount asks for. Whoever owns the
// layers must not steer it either: no attribute of a file leads to another
// (redirect_dir, metacopy), and "userxattr", with which a plain user's attributes would
// count, is never given.
func overlay(source string, view, empty int) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return -1, errors.New("this kernel has no overlay file system (modprobe overlay)")
	}
	if err != nil {
		return -1, fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fs)
	lower := fmt.Sprintf("/proc/self/fd/%d:/proc/self/fd/%d", view, empty)
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"source", func() error { return unix.FsconfigSetString(fs, "source", source) }},
		{"lowerdir", func() error { return unix.FsconfigSetString(fs, "lowerdir", lower) }},
		{"redirect_dir", func() error { return unix.FsconfigSetString(fs, "redirect_dir", "nofollow") }},
		{"metacopy", func() error { return unix.FsconfigSetString(fs, "metacopy", "off") }},
		{"ro", func() error { return unix.FsconfigSetFlag(fs, "ro") }},
		{"create", func() error { return unix.FsconfigCreate(fs) }},
	} {
		if err := step.do(); err != nil {
			return -1, fmt.Errorf("overlay: fsconfig %s: %w%s", step.name, err, fsLog(fs))
		}
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, fmt.Errorf("overlay: fsmount: %w%s", err, fsLog(fs))
	}
	return fd, nil
}

// fsLog returns what the kernel wrote about fs, each message after ": ". Overlay
// writes nothing here before Linux 6.5 (to the kernel log instead).
func fsLog(fs int) string {
	var b strings.Builder
	buf := make([]byte, 4096) // a message longer than the buffer is EMSGSIZE and lost
	for range 16 {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break // ENODATA: no more
		}
		b.WriteString(": " + strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	return b.String()
}

// bind makes a detached read-only clone of the directory. Mounts below it, of which a
// View has none, are not cloned.
func bind(view int) (int, error) {
	fd, err := unix.OpenTree(view, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, fmt.Errorf("bind: open_tree: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind: mount_setattr: %w", err)
	}
	return fd, nil
}

// Unmount unmounts what is on target, if anything, and removes the directory. It is
// idempotent: an absent target is fine. It never removes anything but an empty
// directory, and never follows a link.
func (m *Mounter) Unmount(target string) error {
	if _, _, err := splitTarget(target); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	switch err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EINVAL): // not a mount
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("unmount %s: a process still has files open there, or something is mounted below it: %w", target, err)
	case err != nil:
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	switch err := unix.Rmdir(target); {
	case errors.Is(err, unix.ENOTEMPTY):
		return fmt.Errorf("unmount %s: the directory itself is not empty, and nothing in it was removed: look at what it holds, then empty it", target)
	case err != nil && !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("unmount %s: rmdir: %w", target, err)
	}
	return nil
}
