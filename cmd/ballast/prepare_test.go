package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/csi/mount/mounttest"
)

// preparing is a place that "ballast prepare" is run in.
type preparing struct {
	t          *testing.T
	cache, run string
	uid        int
}

// newPreparing makes the place: neither directory exists. In a user namespace there is
// one user, and nothing to hand over.
func newPreparing(t *testing.T) preparing {
	dir := shortDir(t)
	p := preparing{t, filepath.Join(dir, "cache"), filepath.Join(dir, "run"), defaultAgentUID}
	if mounttest.UserNamespace() {
		p.uid = os.Getuid()
	}
	return p
}

// needsUsers skips what is about two users where there is one.
func needsUsers(t *testing.T) {
	t.Helper()
	if mounttest.UserNamespace() {
		t.Skip("this user namespace has one uid: run as root to see directories change hands")
	}
}

func (p preparing) command() []string {
	return []string{"prepare", "--cache-dir", p.cache, "--socket", p.run + "/agent.sock", "--agent-uid", fmt.Sprint(p.uid)}
}

// prepare runs it in this process, which may do everything.
func (p preparing) prepare() error {
	cmd := root()
	cmd.SetOut(p.t.Output())
	cmd.SetArgs(p.command())
	return cmd.ExecuteContext(p.t.Context())
}

func (p preparing) mustPrepare() {
	p.t.Helper()
	must(p.t, p.prepare())
	for _, dir := range []string{p.cache, p.run} {
		info, err := os.Lstat(dir)
		must(p.t, err)
		if uid, gid := owners(info); uid != p.uid || gid != p.uid || info.Mode() != fs.ModeDir|0o755 {
			p.t.Errorf("%s is %s of %d:%d; want a directory of mode 755 of %d's", dir, info.Mode(), uid, gid, p.uid)
		}
	}
	for _, name := range left(p.t, p.cache) {
		if strings.HasPrefix(name, trial) {
			p.t.Errorf("%s was left in the cache", name)
		}
	}
}

// refused checks that prepare says each of the words.
func (p preparing) refused(words ...string) {
	p.t.Helper()
	err := p.prepare()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			p.t.Errorf("prepare said %v; want %q", err, w)
		}
	}
}

// mount mounts an empty tmpfs on dir until the test ends.
func (p preparing) mount(dir string, flags uintptr, options string) {
	p.t.Helper()
	must(p.t, os.MkdirAll(dir, 0o755))
	must(p.t, unix.Mount("tmpfs", dir, "tmpfs", flags, options))
	p.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestPrepareMakesTheDirectoriesTheAgents(t *testing.T) {
	p := newPreparing(t)
	defer unix.Umask(unix.Umask(0o077))
	p.mustPrepare()
	p.mustPrepare()
}

func TestPrepareTakesWhatKubeletMade(t *testing.T) {
	p := newPreparing(t)
	must(t, os.Mkdir(p.cache, 0o700))
	must(t, os.Mkdir(p.cache+"/lost+found", 0o700)) // a file system of its own
	must(t, os.Mkdir(p.run, 0o777))
	must(t, os.Chmod(p.run, 0o755|fs.ModeSticky|fs.ModeSetgid))
	p.mustPrepare()
}

func TestPrepareAfterARebootFindsTheCacheAndMakesTheRest(t *testing.T) {
	p := newPreparing(t)
	p.mustPrepare()
	// Whosever it is: the directory is the agent's already.
	names := []string{"blobs", "blobs/roots", "roots"}
	var before []syscall.Timespec
	for _, name := range names {
		must(t, os.MkdirAll(filepath.Join(p.cache, name), 0o700))
	}
	for _, name := range names {
		before = append(before, changed(t, filepath.Join(p.cache, name)))
	}
	must(t, os.Remove(p.run))
	p.mustPrepare()
	for i, name := range names {
		if changed(t, filepath.Join(p.cache, name)) != before[i] {
			t.Errorf("%s in the cache was changed", name)
		}
	}
}

func TestPrepareIsRepeatedAfterItWasKilled(t *testing.T) {
	p := newPreparing(t)
	must(t, os.Mkdir(p.cache, 0o755))
	for _, name := range []string{trial, trialLink} {
		must(t, os.WriteFile(filepath.Join(p.cache, name), nil, 0o600))
	}
	p.mustPrepare()
}

func TestPrepareGivesBackACacheWhoseDirectoryChangedHands(t *testing.T) {
	needsUsers(t)
	p := newPreparing(t)
	p.mustPrepare()
	must(t, os.WriteFile(p.cache+"/version", []byte("1\n"), 0o644))
	must(t, os.Chown(p.cache+"/version", p.uid, p.uid))
	for _, owner := range [][2]int{{0, 0}, {0, p.uid}, {p.uid, 0}} {
		must(t, os.Chown(p.cache, owner[0], owner[1]))
		p.mustPrepare()
	}
}

func TestPrepareLeavesWhatIsSomebodyElses(t *testing.T) {
	needsUsers(t)
	for _, owner := range []int{0, 1000} {
		t.Run(fmt.Sprint(owner), func(t *testing.T) {
			p := newPreparing(t)
			must(t, os.Mkdir(p.cache, 0o700))
			must(t, os.Chown(p.cache, owner, owner))
			must(t, os.WriteFile(p.cache+"/letters", nil, 0o600))
			must(t, os.Chown(p.cache+"/letters", 1001, 1001))
			p.refused(p.cache, fmt.Sprintf("uid %d's", owner), `"letters" of uid 1001`, "chown -R 2000000000:2000000000 "+p.cache)
			info, err := os.Lstat(p.cache)
			must(t, err)
			if uid, _ := owners(info); uid != owner || info.Mode().Perm() != 0o700 || len(left(t, p.cache)) != 1 {
				t.Errorf("it was changed: %v of uid %d, holding %v", info.Mode(), uid, left(t, p.cache))
			}
		})
	}
}

func TestPrepareTakesNoLinkAndNoFile(t *testing.T) {
	p := newPreparing(t)
	elsewhere := filepath.Dir(p.cache) + "/elsewhere"
	must(t, os.Mkdir(elsewhere, 0o711))
	must(t, os.Symlink(elsewhere, p.cache))
	p.refused(p.cache, "symbolic link")
	p.cache += "/"
	p.refused("symbolic link")
	p.cache = elsewhere
	must(t, os.WriteFile(p.run, nil, 0o600))
	p.refused(p.run, "not a directory", "move it away")
	p.run = p.cache + "/no/such"
	p.refused(p.run, "absent", "cannot be made")
}

func TestPrepareNamesWhatIsInTheWayOfItsTrial(t *testing.T) {
	for _, name := range []string{trial, trialLink} {
		p := newPreparing(t)
		must(t, os.MkdirAll(filepath.Join(p.cache, name), 0o755))
		p.refused(filepath.Join(p.cache, name)+" is in the way", "remove it")
	}
}

func TestPrepareSaysThatADirectoryIsImmutable(t *testing.T) {
	p := newPreparing(t)
	must(t, os.Mkdir(p.cache, 0o755))
	dir, err := os.Open(p.cache)
	must(t, err)
	defer dir.Close()
	const immutable = 0x10 // FS_IMMUTABLE_FL, <linux/fs.h>
	before, err := unix.IoctlGetUint32(int(dir.Fd()), unix.FS_IOC_GETFLAGS)
	set := func(flags uint32) error {
		return unix.IoctlSetPointerInt(int(dir.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
	}
	if err := errors.Join(err, set(before|immutable)); err != nil {
		t.Skipf("no directory can be made immutable here: %v", err)
	}
	defer func() { must(t, set(before)) }()
	p.refused(p.cache, "operation not permitted", "immutable")
}

func TestPrepareTakesOnlyUIDsThatKubernetesTakes(t *testing.T) {
	p := newPreparing(t)
	for _, p.uid = range []int{-1, 1 << 31} {
		p.refused("--agent-uid", "2147483647")
	}
}

func TestPrepareTakesNoFileSystemWithoutHardLinks(t *testing.T) {
	p := newPreparing(t)
	p.mountQueues(p.cache)
	p.refused(p.cache, "no hard links", "ext4")
	if uid, _ := ownersOf(t, p.cache); uid != 0 || len(left(t, p.cache)) != 0 {
		t.Errorf("it was changed: uid %d, holding %v", uid, left(t, p.cache))
	}
}

// mountQueues mounts mqueue, which has files and no links to them, of an IPC namespace
// of its own: there is one for each. A thread keeps that until the test ends.
func (p preparing) mountQueues(dir string) {
	p.t.Helper()
	must(p.t, os.Mkdir(dir, 0o755))
	mounted, over := make(chan error), make(chan struct{})
	p.t.Cleanup(func() { close(over) })
	go func() {
		runtime.LockOSThread() // for ever
		err := unix.Unshare(unix.CLONE_NEWIPC)
		if err == nil {
			err = unix.Mount("mqueue", dir, "mqueue", 0, "")
		}
		mounted <- err
		<-over
	}()
	if err := <-mounted; errors.Is(err, unix.ENODEV) {
		p.t.Skip("this kernel has no mqueue, the file system without hard links that is used here")
	} else if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestPrepareTakesNoFileSystemThatNodesShare(t *testing.T) {
	for magic, name := range map[uint32]string{0x6969: "NFS", 0xfe534d42: "SMB", 0x00c36400: "CephFS"} { // statfs(2)
		if shared[magic] != name {
			t.Errorf("%#x is %q; want %q", magic, shared[magic], name)
		}
	}
}

func TestPrepareSaysThatADiskIsReadOnly(t *testing.T) {
	p := newPreparing(t)
	p.mount(p.cache, unix.MS_RDONLY, "")
	p.refused(p.cache, "read-only file system", "dmesg")
}

func TestPrepareAcceptsAFullDisk(t *testing.T) {
	p := newPreparing(t)
	p.mount(p.cache, 0, "nr_inodes=1")
	if err := os.WriteFile(p.cache+"/x", nil, 0o600); !full(err) {
		t.Fatalf("the disk is not full: %v", err)
	}
	p.mustPrepare()
}

// changed is when the file at path was last changed, its owner and mode included.
func changed(t *testing.T, path string) syscall.Timespec {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Ctim
}

func ownersOf(t *testing.T, path string) (uid, gid int) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return owners(info)
}
