package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/unixsock"
)

type prepareFlags struct {
	cacheDir string
	socket   string
	agentUID int
}

func prepareCommand() *cobra.Command {
	var f prepareFlags
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Make the directories of the cache and of the agent's socket the agent's (as root, before it starts)",
		Long: "Makes the directories that the agent needs, if they are absent, gives them to its user, and tries\n" +
			"whether the cache's file system can hold a cache. What is in them is never changed. Safe to run\n" +
			"at any time, also beside a running agent. It needs no more than CAP_CHOWN, CAP_FOWNER and\n" +
			"CAP_DAC_OVERRIDE.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.prepare(cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.cacheDir, "cache-dir", defaultCacheDir, "directory of the cache")
	flags.StringVar(&f.socket, "socket", defaultAgentSocket, "the agent's socket, whose directory is prepared")
	flags.IntVar(&f.agentUID, "agent-uid", defaultAgentUID, "uid and gid of the agent's process")
	return cmd
}

func (f prepareFlags) prepare(out io.Writer) error {
	if f.agentUID < 0 || f.agentUID > math.MaxInt32 { // Kubernetes' limit of runAsUser
		return usageError{fmt.Errorf("--agent-uid: %d is not from 0 to %d", f.agentUID, math.MaxInt32)}
	}
	if err := unixsock.CheckPath(f.socket); err != nil {
		return usageError{fmt.Errorf("--socket: %w", err)}
	}
	for _, d := range []struct {
		path string
		fit  func(*os.File) error
	}{
		{filepath.Clean(f.cacheDir), canHoldCache},
		{filepath.Dir(f.socket), func(*os.File) error { return nil }},
	} {
		if err := give(d.path, f.agentUID, d.fit); err != nil {
			return fmt.Errorf("prepare %s: %w", d.path, err)
		}
		fmt.Fprintf(out, "%s is uid %d's\n", d.path, f.agentUID)
	}
	return nil
}

// give makes the directory at path uid's, with mode 0755, if fit finds nothing wrong with
// it and nobody else has anything in it. It works on one descriptor, since uid may be
// hostile and swap names in what is its own already. Only path's last element may not be a
// link: what is above must not be uid's.
func give(path string, uid int, fit func(*os.File) error) error {
	dir, err := openDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	owner, group := owners(info)
	// What the agent has in its own directory is its business, and may be much.
	if owner != uid {
		if err := noStrangers(dir, owner, uid); err != nil {
			return err
		}
	}
	if err := fit(dir); err != nil {
		return err
	}
	if info.Mode() != fs.ModeDir|0o755 {
		if err := dir.Chmod(0o755); err != nil {
			return asRoot(err)
		}
	}
	if owner != uid || group != uid {
		if err := dir.Chown(uid, uid); err != nil {
			return asRoot(err)
		}
	}
	return nil
}

// openDir opens the directory at path, and makes it if there is nothing.
func openDir(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(path, 0o755); err != nil {
			return nil, fmt.Errorf("it is absent, and cannot be made: %w", err)
		}
		info, err = os.Lstat(path)
	}
	switch {
	case err != nil:
		return nil, err
	case info.Mode().Type() == fs.ModeSymlink:
		return nil, errors.New("it is a symbolic link: name the directory that it leads to")
	case !info.IsDir():
		return nil, errors.New("it is not a directory: move it away, or name another")
	}
	// Should it have become a link since, this fails.
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// noStrangers returns an error if dir, which is owner's, holds what is not uid's.
func noStrangers(dir *os.File, owner, uid int) error {
	for {
		entries, err := dir.ReadDir(64)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Name() == "lost+found" || e.Name() == trial || e.Name() == trialLink {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if has, _ := owners(info); has != uid {
				return fmt.Errorf("it is uid %d's and holds %q of uid %d, so it was left as it is: name an empty directory; "+
					"or, if this is a cache of Ballast's from an agent with another uid, hand it over: chown -R %d:%[4]d %s",
					owner, e.Name(), has, uid, dir.Name())
			}
		}
	}
}

// Names of what canHoldCache makes and removes.
const (
	trial     = ".ballast-prepare"
	trialLink = trial + "-link"
)

// canHoldCache tries whether files and hard links can be made in dir.
func canHoldCache(dir *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if name := shared[uint32(st.Type)]; name != "" {
		return fmt.Errorf("its file system is %s, which other nodes may share: a node's cache needs a local disk", name)
	}
	clear := func() {
		for _, name := range []string{trial, trialLink} {
			_ = unix.Unlinkat(int(dir.Fd()), name, 0) // the trial itself tells if that matters
		}
	}
	clear()
	defer clear()
	fd, err := unix.Openat(int(dir.Fd()), trial, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	switch {
	case full(err):
		return nil // what a full disk holds can still be mounted; the agent tells the rest
	case errors.Is(err, unix.EEXIST):
		return inTheWay(dir, trial)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("nothing can be written: %w: name another directory, or, if this disk should be writable, "+
			"see in the kernel's log (dmesg) why it is not", err)
	case err != nil:
		return fmt.Errorf("no file can be made in it: %w", asRoot(err))
	}
	unix.Close(fd)
	err = unix.Linkat(int(dir.Fd()), trial, int(dir.Fd()), trialLink, 0)
	switch {
	case errors.Is(err, unix.EEXIST):
		return inTheWay(dir, trialLink)
	case err != nil && !full(err):
		return fmt.Errorf("its file system has no hard links, which a cache is made of (link: %w): use one that has, as ext4, xfs and btrfs do", err)
	}
	return nil
}

// inTheWay is about what has a trial's name and could not be removed, as a directory.
func inTheWay(dir *os.File, name string) error {
	return fmt.Errorf("%s is in the way of a trial: remove it", filepath.Join(dir.Name(), name))
}

// shared are the file systems, by what statfs calls them, that several nodes may see at
// once, while a cache has one agent.
var shared = map[uint32]string{
	unix.NFS_SUPER_MAGIC:  "NFS",
	unix.SMB_SUPER_MAGIC:  "SMB",
	unix.CIFS_SUPER_MAGIC: "SMB",
	unix.SMB2_SUPER_MAGIC: "SMB",
	unix.CEPH_SUPER_MAGIC: "CephFS",
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// owners returns uid and gid.
func owners(info fs.FileInfo) (uid, gid int) {
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid)
}

func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: this needs root, with CAP_CHOWN, CAP_FOWNER and CAP_DAC_OVERRIDE; "+
			"where it has them, the directory is immutable (lsattr -d shows an i) or a policy as SELinux's forbids it", err)
	}
	return err
}
