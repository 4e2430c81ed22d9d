package agent

import (
	"errors"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// ends reports whether err ends f, whoever asks next: time does not mend it, or the Repo
// is another's now, and its waiters are to be authorised anew.
func (f *flight) ends(err error) bool {
	return errors.Is(err, store.ErrReplaced) || !passes(err) && !useless(f.hubSaid(err))
}

// hubSaid returns what of err is the Hub's own word on a credential: nil if the Hub was not
// asked, or had no trouble. Whatever another Source says of its own credential is no verdict.
func (f *flight) hubSaid(err error) error {
	var all *fetcher.SourcesError
	if !errors.As(err, &all) {
		return err // of a look before the Hub is asked for content
	}
	var said []error
	for _, p := range all.Tried {
		if p.Source == f.hub {
			said = append(said, p.Err)
		}
	}
	return errors.Join(said...)
}

// verdict tells what all Sources met, and is what the Hub said.
type verdict struct{ all, hub error }

func (v *verdict) Error() string { return v.all.Error() }

func (v *verdict) Unwrap() error { return v.hub }

// useless reports whether err is a verdict on the credential alone.
func useless(err error) bool { return fetcher.Denied(err) || errors.Is(err, fetcher.ErrInsecure) }
