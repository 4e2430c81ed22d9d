// Package durabletest owns the disk that fails on command, for tests of durable and
// of what is built on it. No production code imports it.
package durabletest

import (
	"os"

	"github.com/ballast-csi/ballast/agent/store/durable"
)

// Op names one of durable's four operations.
type Op string

// The operations.
const (
	Sync   Op = "sync"
	Rename Op = "rename"
	Link   Op = "link"
	SyncFS Op = "syncfs"
)

// Ops asks Fault before each operation, with the path it makes (the new one of two).
// Fault may be called by several goroutines at once. With apply, the operation runs;
// with an error, it says that it failed, whether it ran or not. So a failure comes in
// its two forms: "did not happen" (false, err) and "happened, but said it failed"
// (true, err). After is called when an operation has run; it may be nil.
type Ops struct {
	Fault func(op Op, path string) (apply bool, err error)
	After func(op Op, path string)
}

func (o Ops) do(op Op, path string, run func() error) error {
	apply, err := true, error(nil)
	if o.Fault != nil {
		apply, err = o.Fault(op, path)
	}
	if apply {
		if runErr := run(); runErr != nil {
			return runErr
		}
		if o.After != nil {
			o.After(op, path)
		}
	}
	return err
}

// Sync implements durable.Ops.
func (o Ops) Sync(f *os.File) error {
	return o.do(Sync, f.Name(), func() error { return durable.OS{}.Sync(f) })
}

// Rename implements durable.Ops.
func (o Ops) Rename(oldpath, newpath string) error {
	return o.do(Rename, newpath, func() error { return durable.OS{}.Rename(oldpath, newpath) })
}

// Link implements durable.Ops.
func (o Ops) Link(oldpath, newpath string) error {
	return o.do(Link, newpath, func() error { return durable.OS{}.Link(oldpath, newpath) })
}

// SyncFS implements durable.Ops.
func (o Ops) SyncFS(f *os.File) error {
	return o.do(SyncFS, f.Name(), func() error { return durable.OS{}.SyncFS(f) })
}
