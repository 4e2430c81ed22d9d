package hubcache

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
)

// maxLinks is how many links a path may go through, as in Linux.
const maxLinks = 40

// whoMay says why name below base may not be read: what is in the way, whose it is, who
// we are, and what would help, where tree is to be opened as a whole. It may hang.
func whoMay(base, name, tree string) error {
	at, stat, err := inTheWay(base, name)
	if err != nil {
		return fmt.Errorf("%w: %s", fetcher.ErrUnreadable, printable(path.Join(base, name)))
	}
	groups, _ := os.Getgroups()
	if gid := os.Getegid(); !slices.Contains(groups, gid) {
		groups = append(groups, gid)
	}
	slices.Sort(groups)
	us := user{uid: os.Geteuid(), groups: groups}
	return fmt.Errorf("%w: we are user %d of groups %v, and %s is %d:%d with mode %#o: %s", fetcher.ErrUnreadable,
		us.uid, us.groups, printable(at), stat.Uid, stat.Gid, stat.Mode&0o7777, us.help(tree, stat))
}

// user is who reads.
type user struct {
	uid    int
	groups []int
}

// help says what would let u read what stat describes, which is of tree.
func (u user) help(tree string, stat unix.Stat_t) string {
	want := uint32(4) // r of a file
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		want = 5 // r and x of a directory
	}
	group := int(stat.Gid)
	groupMay := stat.Mode>>3&want == want
	member := slices.Contains(u.groups, group)
	opened := fmt.Sprintf("chmod -R g+rX %s", printable(tree))
	joined := fmt.Sprintf("supplementalGroups: [%d] on the agent's pod", group)
	switch {
	case int(stat.Uid) == u.uid && stat.Mode>>6&want == want,
		int(stat.Uid) != u.uid && member && groupMay,
		int(stat.Uid) != u.uid && !member && stat.Mode&want == want:
		return "its mode would let us, so the file server refuses it (an access list, root_squash)"
	case int(stat.Uid) == u.uid:
		return fmt.Sprintf("no group helps, as we own it: chmod -R u+rX %s", printable(tree))
	case member:
		return "no group helps, as it is not readable by its own: " + opened
	case groupMay:
		return joined + " would let us"
	}
	return "no group helps, as it is not readable by its own: " + opened + ", and then " + joined
}

// inTheWay finds what of a path may not be read: the first directory that may not be
// searched, or the end of it.
func inTheWay(base, name string) (at string, stat unix.Stat_t, err error) {
	fd, err := unix.Open(base, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", stat, err
	}
	f := &folder{os.NewFile(uintptr(fd), base), base}
	defer f.dir.Close()
	at = "."
	if err := unix.Fstat(fd, &stat); err != nil {
		return "", stat, err
	}
	links := 0
	for rest := strings.Split(name, "/"); len(rest) > 0; {
		next := path.Join(at, rest[0])
		if target, isLink := f.readlink(next); isLink {
			if links++; links > maxLinks || path.IsAbs(target) {
				return "", stat, errors.New("too many links")
			}
			rest = append(strings.Split(path.Join(at, target), "/"), rest[1:]...)
			at = "."
			continue
		}
		fd, err := f.openat(next, unix.O_PATH|unix.O_NOFOLLOW)
		if denied(err) {
			break
		}
		if err != nil {
			return "", stat, err
		}
		err = unix.Fstat(fd, &stat)
		unix.Close(fd)
		if err != nil {
			return "", stat, err
		}
		at, rest = next, rest[1:]
	}
	return path.Join(base, at), stat, nil
}
