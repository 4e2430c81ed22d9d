package agent

import (
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// Request asks for a View for a Volume.
type Request struct {
	Volume store.Volume
	Pod    Pod // zero if there is none behind the Volume
	Repo   fetcher.Repo
	Ref    fetcher.Ref
	Filter fetcher.Filter
	Layout store.Layout
	Token  fetcher.Secret
}

func (r Request) String() string {
	ref := r.Ref.String()
	if c, ok := r.Ref.Commit(); ok {
		ref = c.Short()
	}
	return r.Repo.String() + "@" + ref
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
