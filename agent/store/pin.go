package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
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
// another View is refused with ErrPinned. It looks at ctx as Unpin does: a Volume that
// was released is not pinned by a call that began before.
func (s *Store) PinView(ctx context.Context, k ViewKey, v Volume) (View, bool, error) {
	if err := k.check(); err != nil {
		return View{}, false, err
	}
	if v.ID == "" || v.Target == "" || strings.Contains(v.ID, "\x00") {
		return View{}, false, fmt.Errorf("pin view of %s: no volume id or target path given", k.Revision)
	}
	s.linking.Lock()
	defer s.linking.Unlock()
	if err := errors.Join(ctx.Err(), s.usable()); err != nil {
		return View{}, false, fmt.Errorf("pin view of %s for volume %s: %w", k.Revision, v.ID, err)
	}
	view := k.view()
	old, pinned := s.hasPin(v)
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
	err := s.disk.RemoveAll(s.pinPath(v.Pin()))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unreadablePins[v.Pin()] = true
	} else {
		delete(s.unreadablePins, v.Pin())
	}
}

// Unpin durably removes v's Pin, if there is one. The caller answers for v not being
// mounted. ctx is looked at when nothing else can pin v any more: who gave up waiting
// never removes the Pin that a later call was handed.
func (s *Store) Unpin(ctx context.Context, v Volume) error {
	s.linking.Lock()
	defer s.linking.Unlock()
	err := ctx.Err()
	if err == nil {
		err = s.usable()
	}
	if err == nil {
		err = s.removePin(v.Pin())
	}
	if err != nil {
		return fmt.Errorf("unpin volume %s at %s: %w", v.ID, v.Target, err)
	}
	return nil
}

// UnpinName durably removes the Pin called name (UnreadablePins) of which the content
// is lost. The caller answers for its Volume, which is known by this hash alone, not
// being mounted. One that can be read is left as it is: its Volume was pinned anew in
// the meantime. It looks at ctx as Unpin does.
func (s *Store) UnpinName(ctx context.Context, name string) error {
	if !isHex64(name) {
		return fmt.Errorf("unpin %q: not the name of a pin (64 hex digits)", name)
	}
	s.linking.Lock()
	defer s.linking.Unlock()
	err := ctx.Err()
	if err == nil {
		err = s.usable()
	}
	if err == nil && s.isUnreadable(name) {
		err = s.removePin(name)
	}
	if err != nil {
		return fmt.Errorf("unpin %s: %w", name, err)
	}
	return nil
}

// removePin removes what is on disk of a Pin, whatever it is. Also when memory knows
// none: an earlier removal may have failed half way. The caller holds linking.
func (s *Store) removePin(name string) error {
	err := s.disk.RemoveAll(s.pinPath(name))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pins, name)
	if err != nil {
		s.unreadablePins[name] = true // whether it is there is not known: written anew if pinned again
		return s.explain(err)
	}
	delete(s.unreadablePins, name)
	return nil
}

// PinnedView returns the View that v has pinned, false if none. A Pin whose View does
// not exist, or is not trusted any more (recoverViews), is removed: who asks is about
// to mount it, so v is not mounted now.
func (s *Store) PinnedView(v Volume) (View, bool, error) {
	s.linking.Lock()
	defer s.linking.Unlock()
	if err := s.usable(); err != nil {
		return View{}, false, err
	}
	pin, ok := s.hasPin(v)
	if !ok {
		return View{}, false, nil
	}
	s.mu.RLock()
	info, ok := s.views[pin.View]
	s.mu.RUnlock()
	if !ok {
		if err := s.removePin(v.Pin()); err != nil {
			return View{}, false, fmt.Errorf("unpin volume %s at %s, left over from view %s: %w", v.ID, v.Target, pin.View, err)
		}
		return View{}, false, nil
	}
	return viewOf(pin.View, info.key), true, nil
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

// UnreadablePins returns the names (Volume.Pin) of the Pins that cannot be read, in
// order.
func (s *Store) UnreadablePins() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.unreadablePins))
}

func (s *Store) isUnreadable(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.unreadablePins[name]
}

// hasPin returns v's Pin, if it has one.
func (s *Store) hasPin(v Volume) (Pin, bool) {
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

// recoverPins loads the Pins. Whatever keeps one from being read, it still is one.
func (s *Store) recoverPins() error {
	entries, err := os.ReadDir(s.path(pinsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(pinsDir, e.Name())
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !isHex64(name) { // no Volume's
			s.unknown(path)
			continue
		}
		pin, err := readPin(path, name)
		switch {
		case absent(err):
			s.log.Error("a pin cannot be read; until its volume is unpublished or published again every view counts as pinned",
				zap.String("path", path), zap.Error(err))
			s.unreadablePins[name] = true
		case err != nil:
			return err
		default:
			s.pins[name] = pin
		}
	}
	return nil
}
