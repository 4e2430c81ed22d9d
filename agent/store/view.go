package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ballast-csi/ballast/fetcher"
)

// Layout is how a View presents a Snapshot's files.
type Layout string

const (
	// Snapshot has the files at the View's root.
	Snapshot Layout = "snapshot"
	// HubCache is what HF_HUB_CACHE expects, refs and trees included; files are
	// plain, nothing is a symlink.
	HubCache Layout = "hub-cache"
)

// ViewKey says what a View shows. RepoID and Authority are the Origin's. Listing is which
// of a local Authority's Manifests of that Revision was selected from, as it may list one
// anew and a View never changes; "" for the Hub's. Filter is how that was done. Ref is the
// Ref it shows: only HubCache shows one, and a commit shows none.
type ViewKey struct {
	Revision  fetcher.Revision
	RepoID    string
	Authority string
	Listing   string
	Ref       fetcher.Ref
	Filter    fetcher.Filter
	Layout    Layout
}

// Origin returns what the View's bytes came through.
func (k ViewKey) Origin() Origin { return Origin{k.Revision.Repo, k.RepoID, k.Authority} }

// View is a directory that a pod can use. Path is relative to the cache directory:
// "views/<id>/root".
type View struct {
	ID   string
	Path string
	Key  ViewKey
}

// viewGeneration will rise for a View of which a Blob was replaced after rot.
const viewGeneration = 0

const viewIDLength = 32 // hex digits

// shown returns the Ref that a View of k shows, the zero Ref if none.
func (k ViewKey) shown() fetcher.Ref {
	if _, pinned := k.Ref.Commit(); pinned || k.Layout != HubCache {
		return fetcher.Ref{}
	}
	return k.Ref
}

// view names the View of k: the first 32 hex digits of a sha256 over k's parts, each
// preceded by its length and each list by its count, so that no two keys read alike.
func (k ViewKey) view() View {
	var b []byte
	add := func(parts ...string) {
		for _, p := range parts {
			b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
		}
	}
	list := func(parts []string) {
		b = binary.AppendUvarint(b, uint64(len(parts)))
		add(parts...)
	}
	add("ballast view 1", string(k.Revision.Repo.Kind()), k.Revision.Repo.Name(), k.Revision.Commit.String(),
		k.shown().String(), string(k.Layout))
	list(k.Filter.Include())
	list(k.Filter.Exclude())
	b = binary.AppendUvarint(b, viewGeneration)
	if k.RepoID != "" {
		add(k.RepoID)
	}
	if k.Authority != "" {
		add("by", k.Authority, k.Listing) // three parts: never alike to an id
	}
	sum := sha256.Sum256(b)
	return viewOf(hex.EncodeToString(sum[:])[:viewIDLength], k)
}

func (k ViewKey) check() error {
	if k.Revision.Repo.IsZero() || k.Revision.Commit.IsZero() {
		return fmt.Errorf("view without a revision")
	}
	if err := k.Origin().check(); err != nil {
		return fmt.Errorf("view of %s: %w", k.Revision, err)
	}
	if k.Origin().Local() != (k.Listing != "") || k.Listing != "" && !isListing(k.Listing) {
		return fmt.Errorf("view of %s: listing %.80q: must be %d hex digits for a local authority's, and none for the Hub's", k.Revision, k.Listing, listingLength)
	}
	if k.Layout != Snapshot && k.Layout != HubCache {
		return fmt.Errorf("view of %s: layout %q: must be %s or %s", k.Revision, k.Layout, Snapshot, HubCache)
	}
	return nil
}

// viewRecord is view.json: what the View is, and what is in it. It lies beside root,
// so no pod sees it.
type viewRecord struct {
	Revision   fetcher.Revision `json:"revision"`
	RepoID     string           `json:"repoId,omitempty"`
	Authority  string           `json:"authority,omitempty"`
	Listing    string           `json:"listing,omitempty"`
	Ref        string           `json:"ref,omitempty"` // shown
	Include    []string         `json:"include,omitempty"`
	Exclude    []string         `json:"exclude,omitempty"`
	Layout     Layout           `json:"layout"`
	Generation int              `json:"generation"`
	Files      []fetcher.File   `json:"files"`
	// Copied lists the files, by path in the repository, that are copies because neither
	// the Blob nor a copy before could have one more link. A file that is not listed is a
	// link to its Blob or to a copy of it.
	Copied []string `json:"copied,omitempty"`
}

func newViewRecord(k ViewKey, m *fetcher.Manifest) viewRecord {
	return viewRecord{
		Revision: k.Revision, RepoID: k.RepoID, Authority: k.Authority, Listing: k.Listing,
		Ref: k.shown().String(), Include: k.Filter.Include(), Exclude: k.Filter.Exclude(),
		Layout: k.Layout, Generation: viewGeneration, Files: m.Files,
	}
}

// key returns the ViewKey that r was made from (with no Ref, if none is shown).
func (r viewRecord) key() (ViewKey, error) {
	k := ViewKey{Revision: r.Revision, RepoID: r.RepoID, Authority: r.Authority, Listing: r.Listing, Layout: r.Layout}
	var err error
	if r.Ref != "" {
		if k.Ref, err = fetcher.ParseRef(r.Ref); err != nil {
			return k, err
		}
	}
	if k.Filter, err = fetcher.NewFilter(r.Include, r.Exclude); err != nil {
		return k, err
	}
	return k, k.check()
}

// viewInfo is what memory keeps of a View.
type viewInfo struct {
	key         ViewKey
	copiedBytes int64
}

func (r viewRecord) info(k ViewKey) viewInfo {
	info := viewInfo{key: k}
	copied := map[string]bool{}
	for _, path := range r.Copied {
		copied[path] = true
	}
	for _, f := range r.Files {
		if copied[f.Path.String()] {
			info.copiedBytes += f.Size
		}
	}
	return info
}

// readView reads what the View in dir is. An error says that it is not one, or may not
// be whole.
func readView(dir string) (viewInfo, error) {
	var rec viewRecord
	if err := readRecord(filepath.Join(dir, viewFile), &rec); err != nil {
		return viewInfo{}, err
	}
	k, err := rec.key()
	if err != nil {
		return viewInfo{}, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if id := k.view().ID; id != filepath.Base(dir) {
		return viewInfo{}, fmt.Errorf("%w: what it shows has the id %s", errCorrupt, id)
	}
	info, err := os.Lstat(filepath.Join(dir, rootDir))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%w: its %s is not a directory", errCorrupt, rootDir)
	}
	return rec.info(k), err
}

func viewOf(id string, k ViewKey) View { return View{id, viewsDir + "/" + id + "/" + rootDir, k} }
