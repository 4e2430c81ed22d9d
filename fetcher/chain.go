package fetcher

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// chain is how one file comes: by which Sources' turns.
type chain struct {
	*run
	task    *task
	file    File
	left    []Source // to be asked
	turns   []*turn  // so far; their Objects are open until the file's end
	current []*turn  // of them, those since Pieces were last dropped
	held    int64    // bytes of the Pieces that an earlier Fetch left
	tried   []Passed

	// The Sources that came back to left, by name: once each and for each reason, so that
	// there is an end.
	rested, suspect map[string]bool
}

// bring has Sources give what is missing until it matches the Digest; whole is false if it
// does not come to that. What err does not say then has been told.
func (r *run) bring(order int, in Ingest) (whole bool, err error) {
	c := &chain{
		run: r, task: newTask(order, in), file: in.File(), left: slices.Clone(r.Sources), held: in.File().Size,
		rested: map[string]bool{}, suspect: map[string]bool{},
	}
	for _, p := range c.task.pending {
		c.held -= p.Size
	}
	defer c.close()
	for !whole && err == nil {
		switch err = c.fill(); {
		case err == nil && r.ctx.Err() != nil:
			err = errStopped
		case err == nil:
			whole, err = c.verify()
		}
	}
	if err == errStopped {
		err = nil
	}
	return whole, err
}

func (c *chain) close() {
	for _, t := range c.turns {
		t.object.Close()
	}
}

// fill has one Source after the other give what is missing.
func (c *chain) fill() error {
	if c.queue.settled(c.task) == nil {
		return nil // all is held: nobody is asked
	}
	for len(c.left) > 0 {
		s := c.next()
		err := c.unasked(s)
		if err == nil {
			err = c.ask(s)
		}
		switch {
		case err == nil || err == errStopped:
			return err
		case err == errRests:
			c.rested[s.Name()] = true
			c.left = append(c.left, s)
		default:
			c.pass(s, err)
		}
	}
	if err := c.queue.settled(c.task); err == nil || c.begin.Err() != nil {
		return err
	}
	c.miss(&SourcesError{c.file, c.tried})
	return errStopped
}

// next takes the Source to ask from those that are left.
func (c *chain) next() Source {
	i := max(0, c.first())
	s := c.left[i]
	c.left = slices.Delete(c.left, i, i+1)
	return s
}

// first returns the index of the Source to ask first; -1: none of those left is to be asked.
func (c *chain) first() int {
	c.memory.sort(c.left, c.file.Digest)
	return slices.IndexFunc(c.left, func(s Source) bool { return c.unasked(s) == nil })
}

// unasked says why s is passed over without being asked, or nil. While its mark lasts it is
// not read whole again where time may mend another: the caller's next Fetch asks that one.
func (c *chain) unasked(s Source) error {
	if err := c.gaveUp(s); err != nil {
		return err
	}
	mismatch := c.memory.marked(c.file.Digest, s.Name())
	mayMend := func(p Passed) bool { return Transient(p.Err) }
	if mismatch == nil || c.suspect[s.Name()] || !slices.ContainsFunc(c.tried, mayMend) {
		return nil
	}
	same := *mismatch
	same.File = c.file // the mark may be of another Repo's file
	return fmt.Errorf("%s: %w", c.Revision, &same)
}

// ask gives s its turn.
func (c *chain) ask(s Source) error {
	t := &turn{source: s, others: slices.Clone(c.left), insist: c.rested[s.Name()]}
	if !t.insist && c.isSpare(t) {
		probe, ok := c.memory.admit(s.Name())
		if !ok {
			return errRests
		}
		if probe {
			t.insist = true
			defer c.memory.unsure(s.Name()) // unless it is known by then
		}
	}
	var err error
	if t.object, err = s.Open(c.begin, c.Revision, c.file, c.Credential); err == nil {
		c.turns, c.current = append(c.turns, t), append(c.current, t)
		_, t.sequential = t.object.(Sequential)
		err = c.queue.through(c.task, t)
	} else if c.begin.Err() == nil {
		c.heed(t, err)
	}
	if err != nil && c.begin.Err() != nil {
		_ = c.queue.settled(c.task) // what has come is kept
		return errStopped
	}
	return err
}

// isSpare reports whether another Source can be asked instead, and does not rest.
func (r *run) isSpare(by *turn) bool {
	return slices.ContainsFunc(by.others, func(s Source) bool { return r.gaveUp(s) == nil && !r.memory.resting(s.Name()) })
}

// isLast reports whether no other Source can be asked.
func (r *run) isLast(by *turn) bool {
	return !slices.ContainsFunc(by.others, func(s Source) bool { return r.gaveUp(s) == nil })
}

// pass passes s over for this file.
func (c *chain) pass(s Source, err error) {
	c.tried = append(c.tried, Passed{Source: s.Name(), File: c.file, Why: reasonOf(err), Err: err})
	p := &c.tried[len(c.tried)-1]
	if i := c.first(); i >= 0 {
		p.Next = c.left[i].Name()
	}
	c.tellPassed(*p)
	c.cfg.Log.Debug("a source is passed over", zap.Stringer("revision", c.Revision), zap.Stringer("path", c.file.Path),
		zap.String("source", p.Source), zap.String("reason", string(p.Why)), zap.Error(err))
}

// verify hashes a whole file. If it does not match, all of it is missing again.
func (c *chain) verify() (matches bool, err error) {
	c.verifying <- struct{}{}
	err = c.task.ingest.Verify()
	<-c.verifying
	gave := slices.DeleteFunc(c.current, func(t *turn) bool { return t.kept == 0 })
	c.current = nil
	if err == nil {
		for _, t := range gave {
			c.memory.unmark(c.file.Digest, t.source.Name())
		}
		return true, nil
	}
	mismatch, ok := err.(*MismatchError)
	if !ok {
		return false, fmt.Errorf("verify %s of %s: %w", c.file.Path, c.Revision, err)
	}
	for _, t := range gave {
		c.tell(t.source.Name(), -t.kept)
	}
	c.tell("", -c.held)
	return false, c.dropped(mismatch, gave)
}

// dropped says who is to blame for bytes that did not match, and who brings the file now.
func (c *chain) dropped(mismatch *MismatchError, gave []*turn) error {
	missing, held := c.task.ingest.Missing(), c.held
	c.queue.restock(c.task, missing)
	c.held = 0
	var names []string
	for _, t := range gave {
		names = append(names, t.source.Name())
	}
	mismatch.Source = strings.Join(names, " and ")
	err := fmt.Errorf("%s: %w", c.Revision, mismatch)
	switch {
	case len(missing) == 0:
		mismatch.Source = "the manifest"
		return fmt.Errorf("%w: %w: an empty file has one digest", err, ErrMalformed)
	case held > 0: // which may be what is wrong: those who gave the rest are to give all
		for _, t := range slices.Backward(gave) {
			c.left = slices.Insert(c.left, 0, t.source)
		}
		return nil
	}
	c.memory.mark(c.file.Digest, mismatch, names...)
	for _, t := range slices.Backward(gave) { // the last one did not break off
		if len(gave) > 1 && !c.suspect[t.source.Name()] {
			c.suspect[t.source.Name()] = true
			c.left = append(c.left, t.source)
		}
	}
	for _, t := range gave {
		c.pass(t.source, err)
	}
	return nil
}

// reasonOf is the word for err.
func reasonOf(err error) Reason {
	var limited *RateLimitedError
	var mismatch *MismatchError
	switch {
	case errors.As(err, &mismatch):
		return PassedMismatch
	case errors.Is(err, ErrAbsent) || errors.Is(err, ErrEntryNotFound) || errors.Is(err, ErrRevisionNotFound):
		return PassedAbsent
	case Denied(err) || errors.Is(err, ErrInsecure):
		return PassedDenied
	case errors.As(err, &limited):
		return PassedRateLimited
	case errors.Is(err, errStalled):
		return PassedStalled
	case Unreachable(err):
		return PassedUnreachable
	}
	return PassedFailed
}
