package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/agent/store/durable"
	"github.com/ballast-csi/ballast/fetcher"
)

// checker reads a cache directory as a stranger would: it trusts no memory of what was
// written there.
type checker struct {
	dir    string
	blobs  map[fetcher.Digest]os.FileInfo
	views  map[string]bool // by id, those set aside included
	errors []error
}

// CheckStore reads the cache directory dir and returns every violation of the store's
// invariants, joined; it hashes every Blob. The directory must be at rest: nobody
// writes to it, and no crash left it since a Store was last opened.
func CheckStore(dir string) error {
	c := checker{dir: dir, blobs: map[fetcher.Digest]os.FileInfo{}, views: map[string]bool{}}
	c.checkLayout()
	c.checkBlobs()
	c.checkIngests()
	c.checkRecords()
	c.checkOrigins()
	c.checkViews()
	c.checkPins()
	return errors.Join(c.errors...)
}

func (c *checker) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// wrong notes a violation at path.
func (c *checker) wrong(path, format string, args ...any) {
	if rel, err := filepath.Rel(c.dir, path); err == nil {
		path = rel
	}
	c.errors = append(c.errors, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...)))
}

// failed notes err, if it is one.
func (c *checker) failed(path string, err error) bool {
	if err != nil {
		c.wrong(path, "%w", err)
	}
	return err != nil
}

func (c *checker) checkLayout() {
	text, err := os.ReadFile(c.path(versionFile))
	if !c.failed(c.path(versionFile), err) && string(text) != version+"\n" {
		c.wrong(c.path(versionFile), "unknown layout version %q", text)
	}
	for _, name := range append([]string{EmptyDir}, privateDirs...) {
		if info, err := os.Lstat(c.path(name)); !c.failed(c.path(name), err) && !info.IsDir() {
			c.wrong(c.path(name), "not a directory")
		}
	}
	entries, err := os.ReadDir(c.path(EmptyDir))
	if !c.failed(c.path(EmptyDir), err) && len(entries) > 0 {
		c.wrong(c.path(EmptyDir), "not empty: %s", entries[0].Name())
	}
	err = eachOwn(c.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && durable.IsTemp(e.Name()) {
			c.wrong(path, "temporary file left over")
		}
		return err
	})
	c.failed(c.dir, err)
}

// checkBlobs: a Blob's bytes hash to its name, nobody can write it, its sums are those
// of its bytes, and it came through some Repo (checkOrigins).
func (c *checker) checkBlobs() {
	err := eachDigestEntry(c.path(blobsDir), func(d fetcher.Digest, path string, e fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = e.Info()
		}
		switch {
		case err != nil:
			return err
		case d.IsZero() || !info.Mode().IsRegular():
			c.wrong(path, "not a blob")
			return nil
		case info.Mode().Perm() != blobMode:
			c.wrong(path, "mode is %o, not %o", info.Mode().Perm(), blobMode)
		}
		c.blobs[d] = info
		c.checkBytes(d, path, info.Size())
		return nil
	})
	c.failed(c.path(blobsDir), err)
	err = eachDigestEntry(c.path(sumsDir), func(d fetcher.Digest, path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsZero() || !e.Type().IsRegular() {
			c.wrong(path, "not sums")
		}
		return nil
	})
	c.failed(c.path(sumsDir), err)
}

// checkBytes hashes a Blob twice: as its name says, and Piece by Piece.
func (c *checker) checkBytes(d fetcher.Digest, path string, size int64) {
	f, err := os.Open(path)
	if c.failed(path, err) {
		return
	}
	defer f.Close()
	h := fetcher.NewHasher(d.Algorithm(), size)
	var sums []uint64
	for i := range fetcher.Pieces(size) {
		p := fetcher.PieceAt(i, size)
		sum, err := pieceSum(f, p)
		if c.failed(path, errors.Join(err, copyPiece(h, f, p))) {
			return
		}
		sums = append(sums, sum)
	}
	if got, err := h.Digest(); err != nil || got != d {
		c.wrong(path, "its bytes hash to %s (%v)", got, err)
	}
	recorded, err := os.ReadFile(c.path(sumsDir, digestPath(d)))
	switch {
	case len(sums) < 2:
		if !errors.Is(err, fs.ErrNotExist) {
			c.wrong(c.path(sumsDir, digestPath(d)), "sums of a file of %d pieces", len(sums))
		}
	case c.failed(c.path(sumsDir, digestPath(d)), err):
	case !slices.Equal(recorded, encodeSums(sums)):
		c.wrong(c.path(sumsDir, digestPath(d)), "sums are not those of the blob's pieces")
	}
}

// checkIngests: bytes on their way in have no other name.
func (c *checker) checkIngests() {
	err := filepath.WalkDir(c.path(ingestsDir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if !e.Type().IsRegular() || st.Nlink != 1 {
			c.wrong(path, "not a plain file with one name")
		}
		return nil
	})
	c.failed(c.path(ingestsDir), err)
}

// checkRecords: each Manifest and each Repo's record can be read, and is where it
// belongs.
func (c *checker) checkRecords() {
	c.eachJSON(c.path(manifestsDir), 3, func(path string, parts []string) error {
		o, err := unflatName(fetcher.Kind(parts[0]), parts[1])
		if err != nil {
			return err
		}
		commit, err := fetcher.ParseCommit(parts[2])
		if err != nil {
			return err
		}
		_, err = readManifest(path, o, commit)
		return err
	})
	c.eachJSON(c.path(refsDir), 2, func(path string, parts []string) error {
		o, err := unflatName(fetcher.Kind(parts[0]), parts[1])
		if err != nil {
			return err
		}
		var rec repoFile
		if err := readRecord(path, &rec); err != nil {
			return err
		}
		if rec.by() != o {
			return fmt.Errorf("it is that of %s by %q", rec.Repo, rec.Authority)
		}
		return rec.check(o)
	})
}

// eachJSON calls check for each file below top, which must be n levels down, with the
// parts of its path.
func (c *checker) eachJSON(top string, n int, check func(path string, parts []string) error) {
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		rel, ok := strings.CutSuffix(strings.TrimPrefix(path, top+"/"), ".json")
		parts := strings.Split(rel, "/")
		if err != nil || e.IsDir() && (path == top || len(parts) < n) {
			return err
		}
		if !ok || len(parts) != n || !e.Type().IsRegular() {
			c.wrong(path, "does not belong here")
			return skip(e)
		}
		c.failed(path, check(path, parts))
		return nil
	})
	c.failed(top, err)
}

// skip tells filepath.WalkDir not to look into e.
func skip(e fs.DirEntry) error {
	if e.IsDir() {
		return filepath.SkipDir
	}
	return nil
}

// checkOrigins: each line is whole, and each Blob came through some Repo.
func (c *checker) checkOrigins() {
	known := map[fetcher.Digest]bool{}
	err := filepath.WalkDir(c.path(originsDir), func(path string, e fs.DirEntry, err error) error {
		parts := strings.Split(strings.TrimPrefix(path, c.path(originsDir)+"/"), "/")
		if err != nil || e.IsDir() && (path == c.path(originsDir) || len(parts) < 2) {
			return err
		}
		if len(parts) != 2 || !e.Type().IsRegular() {
			c.wrong(path, "does not belong here")
			return skip(e)
		}
		if _, err := unflatOrigin(fetcher.Kind(parts[0]), parts[1]); c.failed(path, err) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		digests, whole := parseOrigins(text)
		if !whole {
			c.wrong(path, "a line is torn")
		}
		for _, d := range digests {
			known[d] = true
		}
		return nil
	})
	c.failed(c.path(originsDir), err)
	for d := range c.blobs {
		if !known[d] {
			c.wrong(c.path(blobsDir, digestPath(d)), "no repository that its bytes came through is recorded")
		}
	}
}

// checkPins: each Pin can be read, has its Volume's name, and its View exists, or what
// was set aside of it.
func (c *checker) checkPins() {
	entries, err := os.ReadDir(c.path(pinsDir))
	c.failed(c.path(pinsDir), err)
	for _, e := range entries {
		path := c.path(pinsDir, e.Name())
		pin, err := readPin(path, strings.TrimSuffix(e.Name(), ".json"))
		if c.failed(path, err) {
			continue
		}
		if !c.views[pin.View] {
			c.wrong(path, "its view %s does not exist", pin.View)
		}
	}
}
