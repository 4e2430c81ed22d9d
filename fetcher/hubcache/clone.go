package hubcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// copyStep is how much one copy_file_range is asked for, in bytes, so that the end of
// ctx is seen between two.
const copyStep = 16 << 20

// local are the file systems within which the kernel may copy: disks of this machine,
// which answer or fail. xfs and btrfs share the bytes (a reflink), ext4 copies them.
var local = []uint32{unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.EXT4_SUPER_MAGIC}

// CloneTo has the kernel copy the whole range into dst at off, without a byte of it
// passing through this process. It returns errors.ErrUnsupported, and has read nothing,
// unless both files are on one file system of a local disk.
//
// A copy cannot be left as a read can: the call writes to dst, which is an Ingest's
// file, and one that woke up after that had been verified would change verified bytes.
// So it is waited for, and only made where a file system does not hang. Between two
// file systems it would be the same reads and writes as without it.
func (r *rangeReader) CloneTo(dst *os.File, off int64) error {
	switch {
	case r.err != nil:
		return r.err
	case r.buffer != nil || !canClone(r.object.file, dst):
		return errors.ErrUnsupported
	}
	from, to := r.off, off
	for begun := false; from < r.end; begun = true {
		if r.ctx.Err() != nil {
			return r.fail(fmt.Errorf("%s: %w", r.object.what, context.Cause(r.ctx)))
		}
		n, err := unix.CopyFileRange(int(r.object.file.Fd()), &from, int(dst.Fd()), &to, int(min(r.end-from, copyStep)), 0)
		switch {
		case err == unix.EINTR || err == nil && n > 0:
		case err == nil:
			return r.fail(r.object.explain(from, r.end-from, 0, io.EOF))
		case !begun && (err == unix.EXDEV || err == unix.ENOSYS || err == unix.EOPNOTSUPP || err == unix.EINVAL || err == unix.EPERM):
			return errors.ErrUnsupported
		case err == unix.ENOSPC || err == unix.EDQUOT: // no fault of this Source
			return r.fail(fmt.Errorf("copy to %s: %w", dst.Name(), err))
		default:
			return r.fail(r.object.explain(from, r.end-from, 0, err))
		}
	}
	r.off = r.end
	return nil
}

func (r *rangeReader) fail(err error) error {
	r.err = err
	return err
}

// canClone reports whether src and dst are on one file system of a local disk. A
// subvolume of btrfs has a device of its own, and counts as another.
func canClone(src, dst *os.File) bool {
	var a, b unix.Stat_t
	var fs unix.Statfs_t
	return unix.Fstat(int(src.Fd()), &a) == nil && unix.Fstat(int(dst.Fd()), &b) == nil && a.Dev == b.Dev &&
		unix.Fstatfs(int(dst.Fd()), &fs) == nil && slices.Contains(local, uint32(fs.Type))
}
