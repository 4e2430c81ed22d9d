package mount

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespacePath names this process' mount namespace, as "mnt:[4026531841]".
const namespacePath = "/proc/self/ns/mnt"

// parentNamespace is the environment variable in which a process that PrivateNamespace
// prepared finds its parent's mount namespace. (It cannot always look for itself: not
// from a user namespace, and whoever entered a namespace may have a parent outside.)
const parentNamespace = "BALLAST_PARENT_MOUNT_NAMESPACE"

// ErrNamespace says that this process has no mount namespace of its own, so that what
// it mounts, and what it makes private, would be the machine's.
var ErrNamespace = errors.New("this process was not started in a mount namespace of its own; nothing was changed")

// PrivateNamespace makes cmd start in a mount namespace of its own, and, where this
// process may not make one (it lacks CAP_SYS_ADMIN), in a user namespace of its own
// as well, in which its user is root. The process must call MakePrivate before it
// mounts anything. What is in cmd.Env must be there before, and stay. It reports
// whether there is a user namespace.
func PrivateNamespace(cmd *exec.Cmd) (user bool) {
	own, _ := os.Readlink(namespacePath) // without it, MakePrivate refuses
	cmd.Env = append(cmd.Environ(), parentNamespace+"="+own)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	attr := cmd.SysProcAttr
	attr.Cloneflags |= unix.CLONE_NEWNS
	if hasSysAdmin() {
		return false
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	return true
}

// MakePrivate stops this mount namespace from handing mounts on and from getting any:
// a copy of a shared mount is shared too. It returns ErrNamespace, and does nothing,
// unless PrivateNamespace prepared this process.
func MakePrivate() error {
	own, err := os.Readlink(namespacePath)
	if err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if parents := os.Getenv(parentNamespace); parents == "" || parents == own {
		return ErrNamespace
	}
	if err := os.Unsetenv(parentNamespace); err != nil { // this process' children have another parent
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	return nil
}

// hasSysAdmin reports whether CAP_SYS_ADMIN is effective.
func hasSysAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}
