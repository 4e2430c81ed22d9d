package store

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"

	"github.com/ballast-csi/ballast/fetcher"
)

// entry is one thing in a View: a directory, a link to a Blob, or a file of its own.
type entry struct {
	path    string // below root, slash-separated
	dir     bool
	file    *fetcher.File // the Blob's file, for a link
	content string        // otherwise
}

// cacheDirTag is what huggingface_hub writes (>= 1.9.0; _create_cachedir_tag).
const cacheDirTag = "Signature: 8a477f597d28d172789f06886806bc55\n" +
	"# This file is a cache directory tag created by Ballast.\n" +
	"# For information about cache directory tags, see: https://bford.info/cachedir/\n"

// plan lists what a View holds, each directory before what is in it.
//
// HubCache is the cache of huggingface_hub as a reader that may never write needs it
// (docs/hub/local-cache.md of hub-docs, and its source):
//
//	CACHEDIR.TAG
//	.locks/<folder>/             empty; older versions make it on a hit, and fail if they cannot
//	<folder>/blobs/              empty, likewise
//	<folder>/refs/<ref>          the commit without a newline: readers do not strip it
//	<folder>/snapshots/<commit>/ the files; no reader requires symlinks
//	<folder>/trees/<commit>.json what a complete snapshot is: exactly what is here
func plan(r viewRecord) ([]entry, error) {
	p := planner{known: map[string]bool{}}
	if r.Layout == Snapshot {
		p.addFiles("", r.Files)
		return p.list, nil
	}
	commit := r.Revision.Commit.String()
	folder := hubFolder(r.Revision.Repo)
	tree, err := hubTree(r.Files)
	if err != nil {
		return nil, err
	}
	p.addContent("CACHEDIR.TAG", cacheDirTag)
	p.addDirs(".locks/" + folder)
	for _, dir := range []string{"blobs", "refs", "snapshots/" + commit} {
		p.addDirs(folder + "/" + dir)
	}
	p.addContent(folder+"/trees/"+commit+".json", tree)
	if r.Ref != "" {
		p.addContent(folder+"/refs/"+r.Ref, commit)
	}
	p.addFiles(folder+"/snapshots/"+commit, r.Files)
	return p.list, nil
}

type planner struct {
	list  []entry
	known map[string]bool // directories in list
}

// addDirs adds dir and its parents, those that are not there.
func (p *planner) addDirs(dir string) {
	if dir != "." && !p.known[dir] {
		p.addDirs(path.Dir(dir))
		p.known[dir] = true
		p.list = append(p.list, entry{path: dir, dir: true})
	}
}

func (p *planner) addContent(name, content string) {
	p.addDirs(path.Dir(name))
	p.list = append(p.list, entry{path: name, content: content})
}

func (p *planner) addFiles(dir string, files []fetcher.File) {
	for i, f := range files {
		name := path.Join(dir, f.Path.String())
		p.addDirs(path.Dir(name))
		p.list = append(p.list, entry{path: name, file: &files[i]})
	}
}

// hubFolder is a Repo's directory in a Hub cache (huggingface_hub, repo_folder_name).
func hubFolder(r fetcher.Repo) string { return string(r.Kind()) + "s--" + r.Flat() }

// treeEntry is a file in trees/<commit>.json (huggingface_hub, _tree_cache.py), its
// fields in order of name, as json.dump(sort_keys=True) writes them.
type treeEntry struct {
	BlobID    string `json:"blob_id"`
	LFSSHA256 string `json:"lfs_sha256,omitempty"`
	LFSSize   *int64 `json:"lfs_size,omitempty"`
	Size      int64  `json:"size"`
	XetHash   string `json:"xet_hash,omitempty"`
}

func hubTree(files []fetcher.File) (string, error) {
	tree := struct {
		Files         map[string]treeEntry `json:"files"`
		FormatVersion int                  `json:"format_version"`
	}{map[string]treeEntry{}, 1}
	for i, f := range files {
		e := treeEntry{BlobID: f.OID, Size: f.Size}
		if isHex64(f.XetHash) { // one that is not makes readers ignore the whole file
			e.XetHash = f.XetHash
		}
		if f.Digest.Algorithm() == fetcher.SHA256 {
			e.LFSSHA256, e.LFSSize = f.Digest.Hex(), &files[i].Size
		}
		if e.BlobID == "" {
			e.BlobID = gitName(f)
		}
		tree.Files[f.Path.String()] = e
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(tree); err != nil {
		return "", err
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// gitName returns the git object name of f in its repository: that of its content, or
// of its LFS pointer (git-lfs docs/spec.md).
func gitName(f fetcher.File) string {
	if f.Digest.Algorithm() == fetcher.GitBlobSHA1 {
		return f.Digest.Hex()
	}
	pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", f.Digest.Hex(), f.Size)
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(pointer), pointer))
	return hex.EncodeToString(sum[:])
}

func isHex64(s string) bool {
	_, err := fetcher.NewDigest(fetcher.SHA256, s)
	return err == nil
}
