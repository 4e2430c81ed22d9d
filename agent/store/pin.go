package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Volume is one CSI volume at one target path.
type Volume struct {
	ID     string `json:"id"`
	Target string `json:"target"`
}

// Pin returns the name of v's Pin: the sha256, in hex, of its id, NUL, its target. (A
// volume id alone is not enough: two pods may share a PersistentVolume.)
func (v Volume) Pin() string {
	sum := sha256.Sum256([]byte(v.ID + "\x00" + v.Target))
	return hex.EncodeToString(sum[:])
}

// Pin says that a Volume uses a View. It has no expiry and blocks eviction.
type Pin struct {
	Volume Volume    `json:"volume"`
	View   string    `json:"view"` // its id
	At     time.Time `json:"at"`   // when it was made
}

// PinView durably pins the View of k for v and returns it. If the View does not exist
// it reports false and pins nothing. It is idempotent; a Volume that is pinned to
// another View is refused with ErrPinned.
func (s *Store) PinView(k ViewKey, v Volume) (View, bool, error) {
	if err := k.check(); err != nil {
		return View{}, false, err
	}
	if v.ID == "" || v.Target == "" || strings.Contains(v.ID, "\x00") {
		return View{}, false, fmt.Errorf("pin view of %s: no volume id or target path given", k.Revision)
	}
	s.linking.Lock()
	defer s.linking.Unlock()
	if err := s.usable(); err != nil {
		return View{}, false, err
	}
	view := k.view()
	old, pinned := s.HasPin(v)
	switch {
	case pinned && old.View != view.ID:
		return View{}, false, fmt.Errorf("pin view of %s for volume %s: %w (%s)", k.Revision, v.ID, ErrPinned, old.View)
	case !s.hasView(view.ID):
		return View{}, false, nil
	case pinned:
		return view, true, nil
	}
	pin := Pin{v, view.ID, time.Now().UTC()}
	// A Pin of this name that cannot be read is replaced: who asks for a View to be
	// pinned is about to mount it, so nothing is mounted at the target now.
	if err := s.writeRecord(s.pinPath(v.Pin()), pin, privateFile); err != nil {
		s.takeBack(v)
		return View{}, false, fmt.Errorf("pin view of %s for volume %s: %w", k.Revision, v.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[v.Pin()] = pin
	delete(s.unreadablePins, v.Pin())
	return view, true, nil
}

// takeBack removes a Pin that may or may not have been written. If it cannot, nobody
// knows whether it is there: it counts as one that cannot be read.
func (s *Store) takeBack(v Volume) {
	err := s.disk.Remove(s.pinPath(v.Pin()))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unreadablePins[v.Pin()] = true
	} else {
		delete(s.unreadablePins, v.Pin())
	}
}

// Unpin durably removes v's Pin, if there is one. The caller answers for v not being
// mounted.
func (s *Store) Unpin(v Volume) error {
	s.linking.Lock()
	defer s.linking.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	// Also when memory knows none: an earlier removal may have failed half way.
	if err := s.disk.Remove(s.pinPath(v.Pin())); err != nil {
		return fmt.Errorf("unpin volume %s at %s: %w", v.ID, v.Target, s.explain(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pins, v.Pin())
	delete(s.unreadablePins, v.Pin())
	return nil
}

// Pins returns every Pin that can be read, in order of name.
func (s *Store) Pins() []Pin {
	s.mu.RLock()
	defer s.mu.RUnlock()
	pins := make([]Pin, 0, len(s.pins))
	for _, p := range s.pins {
		pins = append(pins, p)
	}
	slices.SortFunc(pins, func(a, b Pin) int { return strings.Compare(a.Volume.Pin(), b.Volume.Pin()) })
	return pins
}

// HasPin returns v's Pin, if it has one.
func (s *Store) HasPin(v Volume) (Pin, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.pins[v.Pin()]
	return p, ok
}

// Pinned reports whether the View id may be in use. While a Pin cannot be read, any
// may: it would say which.
func (s *Store) Pinned(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.unreadablePins) > 0 {
		return true
	}
	for _, p := range s.pins {
		if p.View == id {
			return true
		}
	}
	return false
}

func (s *Store) pinPath(name string) string { return s.path(pinsDir, name+".json") }

// readPin reads the Pin called name; one whose content has another name is corrupt.
func readPin(path, name string) (Pin, error) {
	var p Pin
	if err := readRecord(path, &p); err != nil {
		return Pin{}, err
	}
	if p.Volume.Pin() != name || p.View == "" {
		return Pin{}, fmt.Errorf("%s: %w: it is that of volume %q at %q", path, errCorrupt, p.Volume.ID, p.Volume.Target)
	}
	return p, nil
}

// pinNames lists the Pins on disk.
func pinNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}
