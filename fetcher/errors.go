package fetcher

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What a person must mend. A Source or Authority wraps these with the request
// they answer; errors.Is tells them apart.
var (
	// ErrGated: the repository's conditions were not accepted by this token's
	// account, or no token was given.
	ErrGated = errors.New("repository is gated")
	// ErrNotFound: the repository does not exist, or is private and this
	// credential may not see it; the Hub does not say which.
	ErrNotFound = errors.New("repository is private or does not exist")
	// ErrRevisionNotFound: the repository has no such branch, tag or commit.
	ErrRevisionNotFound = errors.New("revision does not exist")
	// ErrAbsent: a Source has not got these bytes, or not of this revision. It is no
	// verdict on the file: another Source may have it.
	ErrAbsent = errors.New("not to be had there")
	// ErrNotYet: a Source has trouble of its own to get this Revision, or takes too long to,
	// and is well otherwise. It comes in an UnreachableError.
	ErrNotYet = errors.New("not to be had there yet")
	// ErrUnreadable: what a Source or an Authority reads may not be read by this process's
	// user. The text around it says what would help.
	ErrUnreadable = errors.New("not readable by the agent")
	// ErrEntryNotFound: the revision has no such file.
	ErrEntryNotFound = errors.New("file does not exist at this revision")
	// ErrBadToken: the token is not valid.
	ErrBadToken = errors.New("token is not valid")
	// ErrForbidden: the token is valid and lacks the permission.
	ErrForbidden = errors.New("token lacks permission")
	// ErrMalformed: an Authority's answer contradicts itself or what was asked,
	// or lists what no repository can hold (a path that leaves it, a digest that
	// is none). An answer in another form than an Authority's is Unreachable.
	ErrMalformed = errors.New("malformed answer")
	// ErrInsecure: a token was given, and the way to the Authority is not encrypted.
	ErrInsecure = errors.New("a token is not sent over http://")
	// ErrBusy: the far end has more to do than it can (503). It comes within an
	// UnreachableError.
	ErrBusy = errors.New("too busy")
	// ErrOffLimits: content is said to be where no content is, such as at a cloud's
	// metadata address, or where an https endpoint's is not fetched from, at http://.
	// Whoever said so is hostile, broken or set up so; waiting mends nothing.
	ErrOffLimits = errors.New("off limits")
)

// Denied reports whether err says that a credential may not read a repository.
func Denied(err error) bool {
	return errors.Is(err, ErrGated) || errors.Is(err, ErrNotFound) ||
		errors.Is(err, ErrBadToken) || errors.Is(err, ErrForbidden)
}

// RateLimitedError says that the far end asks us to wait. It is transient, and it
// never means that the far end cannot be reached.
type RateLimitedError struct {
	RetryAfter time.Duration
	Err        error
}

func (e *RateLimitedError) Error() string {
	return fmt.Sprintf("rate limited for %s: %v", e.RetryAfter.Round(time.Second), e.Err)
}

func (e *RateLimitedError) Unwrap() error { return e.Err }

// UnreachableError says that the far end gave no answer that means anything: no
// connection, a broken one, a stall, a 5xx, or an answer that is not the far end's
// (a proxy's page, other bytes than were asked for). It is transient.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return e.Err.Error() }

func (e *UnreachableError) Unwrap() error { return e.Err }

// Transient reports whether time alone may mend err.
func Transient(err error) bool {
	var limited *RateLimitedError
	return errors.As(err, &limited) || Unreachable(err)
}

// Unreachable reports whether err says that the far end cannot be reached.
func Unreachable(err error) bool {
	var e *UnreachableError
	return errors.As(err, &e)
}

// MismatchError says that bytes did not hash to the Digest they were asked for.
type MismatchError struct {
	File   File
	Got    Digest // zero if the content was refused for another reason
	Source string // the Source that gave the bytes
	Err    error  // ErrCollision, or nil
}

func (e *MismatchError) Error() string {
	what := e.Got.String()
	if e.Err != nil {
		what = e.Err.Error()
	}
	return fmt.Sprintf("%s from %s does not match its digest: want %s, got %s", e.File.Path, e.Source, e.File.Digest, what)
}

func (e *MismatchError) Unwrap() error { return e.Err }

// SourcesError says that no Source gave a file, and what each of them said, in the order in
// which they were asked. It unwraps to all of that, so what one Source said is true of it:
//   - Transient: time alone may mend what keeps one of them from giving the file, whatever
//     the others said. Whoever waits for time asks this first.
//   - Denied: one of them does not let this credential read; another credential may fare
//     better there. It can be Transient as well.
//   - errors.As with a *MismatchError: one of them gave bytes that are not the Digest's.
//   - errors.Is with ErrAbsent: one of them has not got the file.
type SourcesError struct {
	File  File
	Tried []Passed
}

func (e *SourcesError) Error() string {
	switch len(e.Tried) {
	case 0:
		return fmt.Sprintf("there is no source for %s", e.File.Path)
	case 1:
		return e.Tried[0].Err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "no source gave %s", e.File.Path)
	separator := ": "
	for i, p := range e.Tried {
		if slices.ContainsFunc(e.Tried[i+1:], func(later Passed) bool { return later.Source == p.Source }) {
			continue // its last word says enough
		}
		fmt.Fprintf(&b, "%s%s: %v", separator, p.Source, p.Err)
		separator = "; "
	}
	return b.String()
}

func (e *SourcesError) Unwrap() []error {
	list := make([]error, len(e.Tried))
	for i, p := range e.Tried {
		list[i] = p.Err
	}
	return list
}
