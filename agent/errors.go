package agent

import (
	"errors"

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

// refuse gives err the advice that fits it. Errors name the repository themselves.
func refuse(req Request, err error) error {
	var mismatch *fetcher.MismatchError
	advice := ""
	switch {
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
	case errors.As(err, &mismatch):
		advice = "nothing of it was kept or mounted, and the next try fetches it again; if that fails too, " +
			"the bytes are damaged at " + mismatch.Source + " or on the way"
	case errors.Is(err, store.ErrPinned):
		advice = "a volume cannot change what it shows: make a new pod"
	case errors.Is(err, store.ErrTooLarge):
		advice = "give the cache directory a larger disk, keep less of it free (--reserve-bytes), or leave the file out with exclude"
	default:
		advice = "see the log of Ballast's agent on this node"
	}
	return &RefusedError{err, advice}
}
