package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// WaitingError says that a View is not there yet and that work on it goes on.
type WaitingError struct {
	Progress    string // a sentence for the pod's events
	Done, Total int64  // bytes; 0 before the Manifest is known
	Over        bool   // the pod is being deleted: nobody waits any more
}

func (e *WaitingError) Error() string { return e.Progress }

// RefusedError is what a person must mend: what happened, to which Repo and file,
// and what to do next. Err tells the kinds apart by errors.Is and errors.As.
type RefusedError struct {
	Err    error
	Advice string
}

func (e *RefusedError) Error() string {
	if e.Advice == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + ": " + e.Advice
}

func (e *RefusedError) Unwrap() error { return e.Err }

// ErrNothingSelected: include and exclude leave no file.
var ErrNothingSelected = errors.New("include and exclude leave no file")

// ErrWritable: the volume may be written, and only a mount that cannot be made read-only
// for good fits its pod.
var ErrWritable = errors.New("a pod with a user namespace of its own (hostUsers: false) must mount the volume read-only")

// UnknownError says that no Authority has a word of a Repo for this caller.
type UnknownError struct {
	Hub   error        // what the Hub answered or met
	Local []LocalError // why each of the local Authorities does not say what it is, in order
}

// LocalError is what a local Authority answered or met.
type LocalError struct {
	Authority string
	Err       error
}

func (e *UnknownError) Error() string {
	var closed, without []string
	text := e.Hub.Error()
	for _, l := range e.Local {
		switch {
		case errors.As(l.Err, new(*NotOpenedError)):
			closed = append(closed, l.Authority)
		case errors.Is(l.Err, fetcher.ErrNotFound):
			without = append(without, l.Authority)
		default:
			text += "; " + l.Err.Error()
		}
	}
	if len(closed) > 0 {
		text += "; not opened to this namespace: what " + strings.Join(closed, ", ") + " may know of it"
	}
	if len(without) > 0 {
		text += "; not known to " + strings.Join(without, ", ")
	}
	if len(e.Local) == 0 && fetcher.Unreachable(e.Hub) {
		text += " (without it a manifest file, or a shared cache marked authority: true, could say what the repository holds)"
	}
	return text
}

// Unwrap returns what tells the kinds apart: what the Hub answered or met, and all that is
// more of a local Authority than that it knows nothing.
func (e *UnknownError) Unwrap() []error {
	kinds := []error{e.Hub}
	for _, l := range e.Local {
		if !errors.Is(l.Err, fetcher.ErrNotFound) {
			kinds = append(kinds, l.Err)
		}
	}
	if e.Hub == errNoHub && len(kinds) > 1 {
		return kinds[1:]
	}
	return kinds
}

// advice says what would help.
func (e *UnknownError) advice(req Request) string {
	text := "give it a manifest file (ballast manifest), or a shared cache marked authority: true"
	if slices.ContainsFunc(e.Local, func(l LocalError) bool { return errors.As(l.Err, new(*NotOpenedError)) }) {
		text += ", and an open: rule for namespace " + req.Pod.Namespace
	}
	if e.Hub == errNoHub {
		return text
	}
	var refused *RefusedError
	if errors.As(refuse(req, e.Hub), &refused) {
		text = refused.Advice + "; without the Hub: " + text
	}
	return text
}

// NotOpenedError says that the operator's rules do not open to a namespace what a local
// Authority knows; whether it knows anything of the Repo, it does not say.
type NotOpenedError struct {
	Authority, Namespace string
	Repo                 fetcher.Repo
}

func (e *NotOpenedError) Error() string {
	return fmt.Sprintf("what %s may know of %s is not opened to namespace %q", e.Authority, e.Repo, e.Namespace)
}

func (e *NotOpenedError) Unwrap() error { return fetcher.ErrNotFound }

// DisputedError says that the Hub contradicts what a local Authority said.
type DisputedError struct {
	Authority string
	Revision  fetcher.Revision
	How       string // a sentence
}

func (e *DisputedError) Error() string {
	return fmt.Sprintf("what %s said of %s is withdrawn: %s", e.Authority, e.Revision, e.How)
}

// refuse gives err the advice that fits it. Errors name the repository themselves.
func refuse(req Request, err error) error {
	var mismatch *fetcher.MismatchError
	var unknown *UnknownError
	var tried *fetcher.SourcesError
	advice := ""
	switch {
	case errors.As(err, new(*DisputedError)):
		advice = "mend what that authority reads, or bind the repository to it (authorities:) if the Hub's is another one; " +
			"pods that run keep what they have, and a new pod is given what the Hub says"
	case errors.Is(err, fetcher.ErrUnreadable): // says what would help
	case errors.As(err, &unknown):
		advice = unknown.advice(req)
	case errors.As(err, &mismatch):
		advice = "nothing of it was kept or mounted, and the next try fetches it again; if that fails too, " +
			"the bytes are damaged at " + mismatch.Source + " or on the way"
	case errors.Is(err, ErrNoSource) || errors.As(err, &tried) && len(tried.Tried) > 1: // whatever one said of its own token
		advice = "mend what keeps a source from giving it, or configure one more that has it (sources:)"
	case errors.As(err, new(*NotOpenedError)):
		advice = "an open: rule of the operator's that names this authority, or this repository, and this namespace would help"
	case errors.Is(err, fetcher.ErrGated) && !req.Token.IsZero():
		advice = "accept the repository's conditions on the Hub as the account of the Secret's HF_TOKEN, or put in the token of an account that has"
	case errors.Is(err, fetcher.ErrGated):
		advice = "accept the repository's conditions on the Hub, and name a Secret with that account's HF_TOKEN in nodePublishSecretRef"
	case errors.Is(err, fetcher.ErrNotFound) && req.Token.IsZero():
		advice = "check the repo attribute; if it is private, name a Secret with key HF_TOKEN in nodePublishSecretRef"
	case errors.Is(err, fetcher.ErrNotFound):
		advice = "check the repo attribute, and that the account of the Secret's HF_TOKEN may read it"
	case errors.Is(err, fetcher.ErrInsecure): // says what to do
	case errors.Is(err, fetcher.ErrOffLimits):
		advice = "the repository cannot be used as it is; ask whoever runs this Hub, or the mirror of it"
	case errors.Is(err, fetcher.ErrBadToken):
		advice = "put a valid token into the Secret that nodePublishSecretRef names"
	case errors.Is(err, fetcher.ErrForbidden):
		advice = "give the token in the Secret that nodePublishSecretRef names read permission for this repository"
	case errors.Is(err, fetcher.ErrRevisionNotFound):
		advice = "check the revision attribute: a branch, a tag or a full commit of this repository"
	case errors.Is(err, ErrWritable):
		advice = "set readOnly: true in the pod's persistentVolumeClaim volume, or in the PersistentVolume's csi"
	case errors.Is(err, ErrNothingSelected):
		advice = "check the include and exclude attributes"
	case errors.Is(err, fetcher.ErrMalformed) || errors.Is(err, fetcher.ErrEntryNotFound):
		advice = "the repository cannot be used as it is; ask whoever keeps it, or choose another revision"
	case errors.Is(err, store.ErrPinned):
		advice = "a volume cannot change what it shows: make a new pod"
	case errors.Is(err, store.ErrTooLarge):
		advice = "give the cache directory a larger disk, keep less of it free (--reserve-bytes), or leave the file out with exclude"
	default:
		advice = "see the log of Ballast's agent on this node"
	}
	return &RefusedError{err, advice}
}
