package main

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// mountAttempts make the volume, or a copy of its mount, writable. They need
// CAP_SYS_ADMIN, and the last one CAP_DAC_READ_SEARCH. What the first ones allow stays
// allowed for what follows.
func mountAttempts() []attempt {
	return []attempt{
		{"remount of the mount", func(t target) (string, error) {
			return t.dir, unix.Mount("", t.dir, "", unix.MS_REMOUNT|unix.MS_BIND, "")
		}},
		{"remount of the file system", func(t target) (string, error) {
			return t.dir, unix.Mount("", t.dir, "", unix.MS_REMOUNT, "")
		}},
		{"mount_setattr", func(t target) (string, error) {
			return t.dir, clearReadOnly(unix.AT_FDCWD, t.dir, 0)
		}},
		{"mount_setattr recursive", func(t target) (string, error) {
			return t.dir, clearReadOnly(unix.AT_FDCWD, t.dir, unix.AT_RECURSIVE)
		}},
		{"fsconfig RECONFIGURE", reconfigured},
		{"bind elsewhere, remount", bound},
		{"open_tree CLONE, mount_setattr, move_mount", cloned},
		{"open_by_handle_at of the disk's root", escaped},
	}
}

// clearReadOnly clears it with mount_setattr.
func clearReadOnly(fd int, path string, flags uint) error {
	return unix.MountSetattr(fd, path, flags, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
}

func reconfigured(t target) (string, error) {
	fd, err := unix.Fspick(unix.AT_FDCWD, t.dir, unix.FSPICK_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("fspick: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.FsconfigSetFlag(fd, "rw"); err != nil {
		return "", fmt.Errorf("rw: %w", err)
	}
	return t.dir, unix.FsconfigReconfigure(fd)
}

func bound(t target) (string, error) {
	if err := unix.Mount(t.dir, t.scratch, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("bind: %w", err)
	}
	return t.scratch, unix.Mount("", t.scratch, "", unix.MS_REMOUNT|unix.MS_BIND, "")
}

func cloned(t target) (string, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, t.dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return "", fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(fd)
	if err := clearReadOnly(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE); err != nil {
		return "", fmt.Errorf("mount_setattr: %w", err)
	}
	return t.scratch, unix.MoveMount(fd, "", unix.AT_FDCWD, t.scratch, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// escaped opens the root of the file system that the volume is on, whatever part of
// it is mounted. It only opens: what is there is not the volume's.
func escaped(t target) (string, error) {
	dir, err := unix.Open(t.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	const ext4Root, inodeAndGeneration = 2, 1 // FILEID_INO32_GEN, linux/exportfs.h; generation 0 is any
	number := binary.NativeEndian.AppendUint64(nil, 0)
	binary.NativeEndian.PutUint32(number, ext4Root)
	return "", closed(unix.OpenByHandleAt(dir, unix.NewFileHandle(inodeAndGeneration, number), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC))
}

// unmounted looks at what the volume covered.
func unmounted(t target) (string, error) {
	return t.dir, unix.Unmount(t.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}
