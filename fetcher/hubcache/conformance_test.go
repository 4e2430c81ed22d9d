package hubcache

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/sourcetest"
)

// hold fills a cache with content, as links to blobs or as plain files.
func hold(l layout, content []sourcetest.Content, plain bool) {
	l.t.Helper()
	for _, c := range content {
		if plain {
			l.write("org/name", "snapshots/"+commitA+"/"+c.Path.String(), string(c.Bytes))
			continue
		}
		l.write("org/name", "blobs/"+c.Digest.Hex(), string(c.Bytes))
		l.link("org/name", "snapshots/"+commitA+"/"+c.Path.String(), l.path("org/name", "blobs/"+c.Digest.Hex()))
	}
}

// TestConformance: plain files, since a far end of these can tell most lies; a blob is of
// every commit.
func TestConformance(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T, content []sourcetest.Content) sourcetest.Harness {
		l := inMemory(t)
		hold(l, content, true)
		folder := filepath.Join(l.dir, "models--org--name")
		snapshots := filepath.Join(folder, "snapshots")
		change := func(do func(b []byte) []byte) func(testing.TB, string) {
			return func(t testing.TB, path string) {
				file := filepath.Join(snapshots, commitA, path)
				b := must[[]byte](t)(os.ReadFile(file))
				check(t, os.WriteFile(file, do(b), 0o644))
			}
		}
		return sourcetest.Harness{Source: l.open(), Revision: revOf(t, "org/name", commitA), Lies: map[sourcetest.Lie]func(testing.TB, string){
			sourcetest.Short:       change(func(b []byte) []byte { return b[:len(b)-5] }),
			sourcetest.Long:        change(func(b []byte) []byte { return append(b, b[:5]...) }),
			sourcetest.WrongBytes:  change(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }),
			sourcetest.WrongOffset: change(func(b []byte) []byte { return append(bytes.Clone(b[5:]), b[:5]...) }),
			sourcetest.AbsentFile:  func(t testing.TB, path string) { check(t, os.Remove(filepath.Join(snapshots, commitA, path))) },
			sourcetest.AbsentRepo:  func(t testing.TB, _ string) { check(t, os.RemoveAll(folder)) },
			sourcetest.OtherRevision: func(t testing.TB, _ string) {
				check(t, os.Rename(filepath.Join(snapshots, commitA), filepath.Join(snapshots, commitB)))
			},
		}}
	})
}

// TestConformanceOfAFileServer: blobs, on one that hangs or goes away in the middle.
func TestConformanceOfAFileServer(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T, content []sourcetest.Content) sourcetest.Harness {
		l := inMemory(t)
		hold(l, content, false)
		blobs := map[string]string{}
		for _, c := range content {
			blobs[c.Path.String()] = c.Digest.Hex()
		}
		s := serveFuse(t, l.dir)
		return sourcetest.Harness{Source: cacheAt(t, s.dir), Revision: revOf(t, "org/name", commitA), Lies: map[sourcetest.Lie]func(testing.TB, string){
			sourcetest.Stuck:      func(_ testing.TB, path string) { s.hang(fuseRead, blobs[path]) },
			sourcetest.Disconnect: func(_ testing.TB, path string) { s.fail(fuseRead, unix.ENOTCONN, blobs[path]) },
		}}
	})
}

var (
	_ fetcher.Source    = (*Cache)(nil)
	_ fetcher.Authority = (*Cache)(nil)
)
