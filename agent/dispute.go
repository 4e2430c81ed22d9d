package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// judgeStored is judge by what the Hub listed before, if it did and that can tell.
func (a *Agent) judgeStored(ctx context.Context, o store.Origin, c fetcher.Commit) error {
	if a.offHub(o.Repo) {
		return nil
	}
	theirs, err := a.storedAnswer(ctx, o.Repo, c)
	if err == nil && theirs.manifest != nil {
		err = a.judge(ctx, o, c, theirs)
	}
	if errors.Is(err, errUndecided) {
		return nil
	}
	return err
}

// disputed returns a *DisputedError if the Hub contradicts o's listing of c.
func (a *Agent) disputed(o store.Origin, c fetcher.Commit, listing string) error {
	rec, err := a.store.RepoBy(o.Repo, o.Authority)
	if err != nil {
		return err
	}
	return a.isDisputed(o, c, rec.Listed[c.String()], listing)
}

func (a *Agent) isDisputed(o store.Origin, c fetcher.Commit, listed store.ListedRecord, listing string) error {
	if a.offHub(o.Repo) || !listed.Disputed(listing) {
		return nil
	}
	return &DisputedError{Authority: o.Authority, Revision: fetcher.Revision{Repo: o.Repo, Commit: c}, How: cmp.Or(listed.How, "it listed it as the Hub does before, and lists it otherwise now")}
}

// judge records whether what o listed last at c is what the Hub lists. If it is, what came
// through o came through the Hub's Origin as well: what that lists, and gives.
func (a *Agent) judge(ctx context.Context, o store.Origin, c fetcher.Commit, theirs hubsWord) error {
	rec, err := a.store.RepoBy(o.Repo, o.Authority)
	if err != nil {
		return err
	}
	listed, ok := rec.Listed[c.String()]
	if !ok {
		return nil
	}
	how, err := a.difference(ctx, o, c, listed.Listing, theirs.manifest)
	switch {
	case err != nil:
		return err
	case how != "" && listed.Differs != listed.Listing:
		return a.dispute(o, c, listed.Listing, how)
	case how != "":
		return nil
	case listed.Equal != listed.Listing:
		if err := a.store.SetEqual(o, c, listed.Listing); err != nil {
			return err
		}
	}
	if !theirs.given {
		return nil
	}
	var digests []fetcher.Digest
	for _, f := range theirs.manifest.Files {
		digests = append(digests, f.Digest)
	}
	return a.store.Adopt(theirs.origin, o, digests)
}

// dispute withdraws what o listed at c from all that is not mounted yet, and says so.
func (a *Agent) dispute(o store.Origin, c fetcher.Commit, listing, how string) error {
	if err := a.store.SetDiffers(o, c, listing, how); err != nil {
		return err
	}
	a.compared.found.WithLabelValues(o.Authority).Inc()
	err := &DisputedError{Authority: o.Authority, Revision: fetcher.Revision{Repo: o.Repo, Commit: c}, How: how}
	a.log.Error("the Hub contradicts a local authority: its view is given to no new volume; running pods keep it", zap.Error(err))
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, f := range a.flights {
		if key.origin == o && key.commit == c {
			for _, w := range f.waiters {
				a.tell(w.pod, reasonDisputed, err.Error())
			}
		}
	}
	return nil
}

// reasonDisputed: the Hub contradicts what a pod was to be given.
const reasonDisputed = "BallastDisputed"

// errUndecided: the Hub and a local Authority name the same bytes in ways that cannot be
// compared as long as they are not here.
var errUndecided = errors.New("digests of two kinds, of bytes that are not here")

// difference says in what the Hub lists a commit otherwise than o's listing of it does: a
// sentence, "" for nothing. theirs is nil if it knows no such commit. Who reads that may not
// be who may read the Hub's: so of what that lists, nothing is told.
func (a *Agent) difference(ctx context.Context, o store.Origin, c fetcher.Commit, listing string, theirs *fetcher.Manifest) (string, error) {
	name := a.nameOf(nil)
	if theirs == nil {
		return fmt.Sprintf("%s shows %s and knows no such commit of it", name, o.Repo), nil
	}
	if store.Listing(theirs) == listing {
		return "", nil
	}
	ours, err := a.listed.of(ctx, o, c, listing)
	if errors.Is(err, fs.ErrNotExist) {
		return name + " lists other files", nil
	}
	if err != nil {
		return "", err
	}
	known := make(map[fetcher.Path]fetcher.File, len(theirs.Files))
	for _, f := range theirs.Files {
		known[f.Path] = f
	}
	for _, f := range ours.Files {
		other, ok := known[f.Path]
		if !ok {
			return fmt.Sprintf("%s lists no %s", name, f.Path), nil
		}
		if same, err := a.sameBytes(f, other); err != nil || !same {
			return fmt.Sprintf("%s lists another %s", name, f.Path), err
		}
	}
	if len(theirs.Files) > len(ours.Files) {
		return name + " lists more files", nil
	}
	return "", nil
}

// sameBytes reports whether other, of the Hub's, are the bytes of ours. A shared cache may
// name by sha256 what the Hub names as git does; then it is the bytes that tell, which are
// here by their own Digest.
func (a *Agent) sameBytes(ours, other fetcher.File) (bool, error) {
	if ours.Size != other.Size || ours.Digest.Algorithm() == other.Digest.Algorithm() {
		return ours.Size == other.Size && ours.Digest == other.Digest, nil
	}
	blob, err := a.store.OpenBlob(ours.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("%s: %w", ours.Path, errUndecided)
	}
	if err != nil {
		return false, err
	}
	defer blob.Close()
	h := fetcher.NewHasher(other.Digest.Algorithm(), other.Size)
	if _, err := io.Copy(h, blob); err != nil {
		return false, err
	}
	got, err := h.Digest()
	return err == nil && got == other.Digest, nil
}
