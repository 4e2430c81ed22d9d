// Package sourcetest owns what every Source has to hold to: that it gives exactly the
// bytes that are asked for, in any range and to many at once, and that a far end that lies
// gets nothing into a Sink. Each Source's tests run it against that Source's own far end:
// a real directory, a real HTTP server, a real gRPC server.
//
// It must never know a Source, nor where bytes are kept.
//
// Invariants:
//   - A lie that a far end can tell is tested; one that it cannot is a skipped test that
//     says so.
//   - Whatever is told, bytes are taken for a file only by their Digest.
package sourcetest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

// Content is a file and its bytes.
type Content struct {
	fetcher.File
	Bytes []byte
}

// Harness is a Source and its far end, which holds what Make was given.
type Harness struct {
	Source     fetcher.Source
	Revision   fetcher.Revision
	Credential fetcher.Secret
	// Hub says that the Source's word on a repository that it has not got is a verdict on
	// the credential. Of every other Source that word is ErrAbsent, and nothing it says is
	// Denied: the credential was not meant for it.
	Hub bool
	// Lacks reports, unless nil, whether the far end holds no such file ever, whatever Make
	// was given: the Source then answers ErrAbsent for it.
	Lacks func(path string) bool
	// Lies are those that the far end can tell. Each has it lie about the file at path from
	// now on, in every answer; AbsentRepo and OtherRevision are about the whole repository.
	Lies map[Lie]func(t testing.TB, path string)
}

// Make starts a far end that holds content, and a Source before it. Both end with the test.
type Make func(t *testing.T, content []Content) Harness

// Lie is what a far end does instead of answering truly.
type Lie string

const (
	Short         Lie = "short"           // less than was asked for, and a clean end
	Long          Lie = "long"            // more than the file has
	WrongBytes    Lie = "wrong bytes"     // as many as asked for, some of them others
	WrongOffset   Lie = "wrong offset"    // as many as asked for, from elsewhere in the file
	Stuck         Lie = "stuck"           // some bytes, or none, then nothing and no end
	Dripping      Lie = "dripping"        // a few bytes a second, without end
	WholeForRange Lie = "whole for range" // the whole file for a part of it
	Disconnect    Lie = "disconnect"      // some bytes, then a broken connection
	AbsentFile    Lie = "absent file"     // no such file
	AbsentRepo    Lie = "absent repo"     // no such repository
	OtherRevision Lie = "other revision"  // the repository, not at the commit asked for
)

// lies lists all of them, with the reasons for which a liar may be passed over.
var lies = []struct {
	lie Lie
	why []fetcher.Reason
	may bool // the Source may also find the file's own bytes in the answer
}{
	{lie: Short, why: broken},
	{lie: Long, why: broken, may: true},
	{lie: WrongBytes, why: []fetcher.Reason{fetcher.PassedMismatch}},
	{lie: WrongOffset, why: broken},
	{lie: Stuck, why: []fetcher.Reason{fetcher.PassedStalled, fetcher.PassedUnreachable}},
	{lie: Dripping, why: []fetcher.Reason{fetcher.PassedStalled, fetcher.PassedUnreachable}},
	{lie: WholeForRange, why: broken, may: true},
	{lie: Disconnect, why: []fetcher.Reason{fetcher.PassedUnreachable}},
	{lie: AbsentFile, why: []fetcher.Reason{fetcher.PassedAbsent}},
	{lie: AbsentRepo, why: []fetcher.Reason{fetcher.PassedAbsent}},
	{lie: OtherRevision, why: []fetcher.Reason{fetcher.PassedAbsent}},
}

// broken are the words for an answer of another shape.
var broken = []fetcher.Reason{fetcher.PassedUnreachable, fetcher.PassedAbsent, fetcher.PassedMismatch, fetcher.PassedFailed}

// Run tests the Source that make makes.
func Run(t *testing.T, make Make) {
	all := contents(t, map[string]int{
		"empty": 0, "one": 1, "config.json": 700, "sub/dir/deep/weights.bin": 5000,
		"sub/name with spaces, #?%41 and ünïcode.txt": 9, "-rf": 20, "a+b&c=d;e": 21,
		"piece.safetensors": fetcher.PieceSize, "more.safetensors": fetcher.PieceSize + 1,
		"model-00001-of-00002.safetensors": 2*fetcher.PieceSize + 12345,
	})
	t.Run("EveryFileComesWhole", func(t *testing.T) { wholeFiles(t, make(t, all), all) })
	t.Run("EveryRangeIsExact", func(t *testing.T) { ranges(t, make(t, all), all) })
	t.Run("NoRangeLeavesTheFile", func(t *testing.T) { outside(t, make(t, all), all) })
	t.Run("AReadEndsWithItsContext", func(t *testing.T) { cancelled(t, make(t, all), all) })
	t.Run("NothingIsLeftOpen", func(t *testing.T) { leaks(t, make, all) })
	few := contents(t, map[string]int{"liar.bin": fetcher.PieceSize + 5000, "honest.bin": 50_000})
	for _, l := range lies {
		t.Run("AFarEndThatLies/"+string(l.lie), func(t *testing.T) {
			t.Parallel()
			h := make(t, few)
			if h.Lies[l.lie] == nil {
				t.Skipf("the far end of %s cannot tell this lie", h.Source.Name())
			}
			t.Run("alone", func(t *testing.T) { alone(t, h, few, l.lie, l.may) })
			why := l.why
			if h.Hub && l.lie == AbsentRepo {
				why = []fetcher.Reason{fetcher.PassedDenied}
			}
			t.Run("before an honest one", func(t *testing.T) { before(t, make(t, few), few, l.lie, why, l.may) })
		})
	}
}

// contents makes files of these sizes, the large ones LFS files, and the same each time.
func contents(t *testing.T, sizes map[string]int) (list []Content) {
	t.Helper()
	for path, size := range sizes {
		b := make([]byte, size)
		var seed [32]byte
		copy(seed[:], path)
		rand.NewChaCha8(seed).Read(b)
		p, err := fetcher.ParsePath(path)
		if err != nil {
			t.Fatal(err)
		}
		algorithm := fetcher.SHA256
		if size < 1000 {
			algorithm = fetcher.GitBlobSHA1
		}
		list = append(list, Content{fetcher.File{Path: p, Size: int64(size), Digest: digestOf(t, algorithm, b)}, b})
	}
	return list
}

func digestOf(t testing.TB, algorithm fetcher.Algorithm, b []byte) fetcher.Digest {
	t.Helper()
	h := fetcher.NewHasher(algorithm, int64(len(b)))
	h.Write(b)
	d, err := h.Digest()
	if err != nil {
		t.Fatal(fmt.Errorf("digest of %d bytes: %w", len(b), err))
	}
	return d
}
