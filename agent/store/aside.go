package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// suspectSuffix and a number end the name of a damaged View that is set aside. (csi
// knows a bind mount for a View's by its directory's name, this one included.)
const suspectSuffix = "-suspect"

// suspectOf returns the id of the View that was set aside as name.
func suspectOf(name string) (id string, ok bool) {
	id, _, ok = strings.Cut(name, suspectSuffix)
	return id, ok && isViewID(id)
}

func isViewID(name string) bool {
	_, err := hex.DecodeString(name)
	return err == nil && len(name) == viewIDLength
}

// unname durably takes the View id's name away, if it has it, for .partial: from then on
// it can be removed bit by bit. Whatever stops that, nothing which is not whole is ever
// called what a View is called.
func (s *Store) unname(id string) error {
	final := s.path(viewsDir, id)
	switch _, err := os.Lstat(final); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	batch := s.disk.Batch()
	batch.Rename(final, final+partialSuffix)
	return batch.Commit()
}

// setAside takes its name from what is called id and is no View that can be trusted, so
// that the View can be made again. It is removed, unless a Pin may say that it is
// mounted: then all of it is kept under another name, and Open removes it when no such
// Pin is left. The caller holds linking, or is Open.
func (s *Store) setAside(id string) error {
	final := s.path(viewsDir, id)
	switch _, err := os.Lstat(final); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	if !s.Pinned(id) {
		return s.removeSuspect(id)
	}
	for n := 1; ; n++ {
		aside := fmt.Sprintf("%s%s%d", final, suspectSuffix, n)
		if _, err := os.Lstat(aside); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		batch := s.disk.Batch()
		batch.Rename(final, aside)
		return batch.Commit()
	}
}

// removeSuspect removes views/<name>, which is nobody's: its name first.
func (s *Store) removeSuspect(name string) error {
	partial := s.path(viewsDir, name) + partialSuffix
	if err := s.disk.RemoveAll(partial); err != nil {
		return err
	}
	if err := s.unname(name); err != nil {
		return err
	}
	return s.disk.RemoveAll(partial)
}
