package hubtest

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// lfsAbove is the size in bytes above which a file is kept in LFS here.
const lfsAbove = 1024

type repo struct {
	id      string                        // "_id"
	refs    map[string]string             // branch or tag -> commit
	commits map[string]map[string]content // commit -> path -> file
	private bool
	gated   bool
	readers map[string]bool // tokens that may read what is private or gated
}

type content struct {
	fetcher.File
	lfs  bool
	data []byte
}

// AddRepo makes a new commit on main with exactly these files and returns its 40
// hex digits. repo is "org/name", a bare name, or "datasets/org/name". Files
// larger than 1 KiB or named *.safetensors or *.bin are LFS. A file named "" or
// with a path that no git tree can hold fails the test.
func (h *Hub) AddRepo(name string, files map[string][]byte) (commit string) {
	h.t.Helper()
	if r, err := fetcher.ParseRepo(name); err != nil || r.String() != name {
		h.t.Fatalf("hubtest: AddRepo(%q): %v", name, err)
	}
	tree := map[string]content{}
	for p, data := range files {
		tree[p] = h.newContent(p, data)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.repos[name]
	if r == nil {
		h.registered++
		r = &repo{id: fmt.Sprintf("%024x", h.registered), refs: map[string]string{}, commits: map[string]map[string]content{}, readers: map[string]bool{}}
		h.repos[name] = r
	}
	id := sha1.New()
	fmt.Fprintf(id, "%s %d\n", name, len(r.commits))
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		fmt.Fprintf(id, "%s %s\n", p, tree[p].Digest)
	}
	commit = hex.EncodeToString(id.Sum(nil))
	r.commits[commit] = tree
	r.refs["main"] = commit
	return commit
}

// Remove removes a commit, and the branches and tags that name it.
func (h *Hub) Remove(name, commit string) {
	h.with(name, func(r *repo) {
		delete(r.commits, commit)
		maps.DeleteFunc(r.refs, func(_, c string) bool { return c == commit })
	})
}

// Recreate deletes the repository and makes another one under its name, as a stranger
// may who registers a name that has become free: public, with another "_id".
func (h *Hub) Recreate(name string, files map[string][]byte) (commit string) {
	h.t.Helper()
	h.with(name, func(*repo) { delete(h.repos, name) })
	return h.AddRepo(name, files)
}

func (h *Hub) newContent(p string, data []byte) content {
	h.t.Helper()
	path, err := fetcher.ParsePath(p)
	if err != nil {
		h.t.Fatalf("hubtest: %v", err)
	}
	c := content{data: slices.Clone(data)}
	c.File = fetcher.File{Path: path, Size: int64(len(data)), OID: gitSHA1(data)}
	c.lfs = len(data) > lfsAbove || strings.HasSuffix(p, ".safetensors") || strings.HasSuffix(p, ".bin")
	if c.lfs {
		sum := sha256.Sum256(data)
		c.Digest, err = fetcher.NewDigest(fetcher.SHA256, hex.EncodeToString(sum[:]))
		c.OID = gitSHA1([]byte(pointer(c)))
		xet := sha256.Sum256(append([]byte("xet"), data...))
		c.XetHash = hex.EncodeToString(xet[:])
	} else {
		c.Digest, err = fetcher.NewDigest(fetcher.GitBlobSHA1, c.OID)
	}
	if err != nil {
		h.t.Fatalf("hubtest: %v", err)
	}
	return c
}

// pointer is what git holds in place of an LFS file.
func pointer(c content) string {
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", c.Digest.Hex(), c.Size)
}

func gitSHA1(data []byte) string {
	sum := sha1.New()
	fmt.Fprintf(sum, "blob %d\x00", len(data))
	sum.Write(data)
	return hex.EncodeToString(sum.Sum(nil))
}

// SetRef points a branch or tag at a commit of the repository.
func (h *Hub) SetRef(name, ref, commit string) {
	h.t.Helper()
	h.with(name, func(r *repo) { r.refs[ref] = commit })
}

// Manifest returns what is true of main, by path.
func (h *Hub) Manifest(name string) map[string]fetcher.File {
	h.t.Helper()
	files := map[string]fetcher.File{}
	h.with(name, func(r *repo) {
		for p, c := range r.commits[r.refs["main"]] {
			files[p] = c.File
		}
	})
	return files
}

// SetPrivate lets only these tokens see the repository.
func (h *Hub) SetPrivate(name string, tokens ...string) { h.restrict(name, true, false, tokens) }

// SetGated lets anyone list the repository and only these tokens read its files.
func (h *Hub) SetGated(name string, tokens ...string) { h.restrict(name, false, true, tokens) }

// SetPublic lets anyone read the repository.
func (h *Hub) SetPublic(name string) { h.restrict(name, false, false, nil) }

func (h *Hub) restrict(name string, private, gated bool, tokens []string) {
	h.t.Helper()
	h.with(name, func(r *repo) {
		r.private, r.gated, r.readers = private, gated, map[string]bool{}
		for _, t := range tokens {
			r.readers[t], h.tokens[t] = true, true
		}
	})
}

func (h *Hub) with(name string, do func(*repo)) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.repos[name]
	if r == nil {
		h.t.Fatalf("hubtest: there is no repository %q", name)
	}
	do(r)
}

// AddToken makes token valid: it belongs to some account, which may read what is
// public. Any other token is refused everywhere.
func (h *Hub) AddToken(token string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens[token] = true
}

// RevokeToken makes token invalid.
func (h *Hub) RevokeToken(token string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.tokens, token)
}

func (h *Hub) validToken(token string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tokens[token]
}
