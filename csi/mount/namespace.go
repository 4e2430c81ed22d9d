package mount

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// PrivateNamespace makes cmd start in a mount namespace of its own, and, where this
// process may not make one (it lacks CAP_SYS_ADMIN), in a user namespace of its own
// as well, in which its user is root. The process must call MakePrivate before it
// mounts anything. It reports whether there is a user namespace.
func PrivateNamespace(cmd *exec.Cmd) (user bool) {
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
// a copy of a shared mount is shared too.
func MakePrivate() error {
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
