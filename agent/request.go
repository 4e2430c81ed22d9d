package agent

import (
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Caller is who asks: a pod, or nobody (the command line), and its token, if any.
type Caller struct {
	Token fetcher.Secret
	Pod   Pod
}

// query is what is authorised: who asks, for what Ref of a Repo.
type query struct {
	who  Caller
	repo fetcher.Repo
	ref  fetcher.Ref
}

func (q query) String() string {
	ref := q.ref.String()
	if c, ok := q.ref.Commit(); ok {
		ref = c.Short()
	}
	return q.repo.String() + "@" + ref
}

// Request asks for a View for a Volume.
type Request struct {
	Volume store.Volume
	Pod    Pod // zero if there is none behind the Volume
	Repo   fetcher.Repo
	Ref    fetcher.Ref
	Filter fetcher.Filter
	Layout store.Layout
	Token  fetcher.Secret
	// Writable: the pod asks for a volume that may be written. An overlay stands that, a
	// bind does not.
	Writable bool
}

func (r Request) query() query { return query{Caller{r.Token, r.Pod}, r.Repo, r.Ref} }

func (r Request) String() string { return r.query().String() }

// view is the key of the View that r asks for, of what o listed at c.
func (r Request) view(o store.Origin, c fetcher.Commit, listing string) store.ViewKey {
	return store.ViewKey{
		Revision: fetcher.Revision{Repo: r.Repo, Commit: c}, RepoID: o.ID, Authority: o.Authority, Listing: listing,
		Ref: r.Ref, Filter: r.Filter, Layout: r.Layout,
	}
}

// Mountable is a View that is complete and pinned for the Volume that asked.
type Mountable struct {
	View     string // the View's directory, relative to the cache directory
	Empty    string // an empty directory of the same file system, relative too
	Revision fetcher.Revision
	Notice   string // set when the Hub could not be asked; a sentence
	Fetched  int64  // bytes that this Volume's Flight fetched; 0 on a hit
	Bind     bool   // the pod has a user namespace of its own: an overlay cannot be idmapped
}
