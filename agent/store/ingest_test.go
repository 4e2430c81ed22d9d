package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestPiecesWrittenAtOnceInAnyOrderBecomeABlob(t *testing.T) {
	s := storetest.Open(t)
	content := random(7, 3*fetcher.PieceSize+12345)
	f := storetest.File(t, "w.bin", content, true)
	in := begin(t, s, originA, f)
	var wg sync.WaitGroup
	pieces := in.Missing()
	slices.Reverse(pieces)
	for _, p := range pieces {
		wg.Go(func() {
			if err := in.WritePiece(p, iotest.HalfReader(bytes.NewReader(content[p.Offset:p.Offset+p.Size]))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := in.Verify(); err != nil {
		t.Fatal(err)
	}
	if s.HasBlob(f.Digest) {
		t.Error("there is a blob before Commit")
	}
	if err := s.Commit(t.Context(), []*store.Ingest{in}); err != nil {
		t.Fatal(err)
	}
	blob, err := s.OpenBlob(f.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if got, err := io.ReadAll(blob); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the blob does not hold what was written (%v)", err)
	}
	if got := s.Origins(f.Digest); !slices.Equal(got, []store.Origin{originA}) {
		t.Errorf("origins are %v", got)
	}
	if st := s.Stats(); st.Ingests != 0 || st.Blobs != 1 || st.Bytes() != f.Size {
		t.Errorf("stats are %+v", st)
	}
}

func TestAPieceOfWhichTheReaderGivesTooLittleOrTooMuchIsMissing(t *testing.T) {
	s := storetest.Open(t)
	broken := errors.New("connection reset")
	for name, content := range map[string][]byte{"small.bin": random(1, 100), "large.bin": random(2, twoPieces)} {
		f := storetest.File(t, name, content, true)
		in := begin(t, s, originA, f)
		p := fetcher.PieceAt(0, f.Size)
		piece := content[:p.Size]
		for _, test := range []struct {
			r    io.Reader
			want error
		}{
			{bytes.NewReader(piece[:p.Size-1]), io.ErrUnexpectedEOF},
			{bytes.NewReader(nil), io.EOF},
			{io.MultiReader(bytes.NewReader(piece), strings.NewReader("x")), nil},
			{io.MultiReader(bytes.NewReader(piece[:50]), iotest.ErrReader(broken)), broken},
			{io.MultiReader(bytes.NewReader(piece), iotest.ErrReader(broken)), broken},
		} {
			err := in.WritePiece(p, test.r)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%s: WritePiece says %v, want %v", name, err, test.want)
			}
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), repoA.String()) {
				t.Errorf("%s: the error does not name file and repository: %v", name, err)
			}
		}
		if got := in.Missing(); len(got) != fetcher.Pieces(f.Size) {
			t.Errorf("%s: missing are %v", name, got)
		}
		if err := in.Verify(); err == nil {
			t.Errorf("%s: Verify accepts an ingest with pieces missing", name)
		}
		write(t, in, content)
		if err := in.Verify(); err != nil {
			t.Error(err)
		}
	}
}

func TestWritePieceRefusesWhatIsNoPieceOrIsHeld(t *testing.T) {
	s := storetest.Open(t)
	content := random(1, 100)
	in := begin(t, s, originA, storetest.File(t, "a.bin", content, true))
	for _, p := range []fetcher.Piece{{Index: 1}, {Index: -1}, {Size: 99}, {Offset: 1, Size: 100}} {
		if err := in.WritePiece(p, bytes.NewReader(content)); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
	write(t, in, content)
	if err := in.WritePiece(fetcher.PieceAt(0, 100), bytes.NewReader(content)); err == nil {
		t.Error("a held piece was taken again")
	}
}

func TestAWrongByteIsRefusedAndEveryPieceMissingAgain(t *testing.T) {
	s := storetest.Open(t)
	for name, content := range map[string][]byte{"git.txt": random(1, 100), "small.bin": random(2, 100), "large.bin": random(3, twoPieces)} {
		f := storetest.File(t, name, content, isLFS(name))
		in := begin(t, s, originA, f)
		bad := slices.Clone(content)
		bad[len(bad)-1] ^= 1
		write(t, in, bad)
		err := in.Verify()
		var mismatch *fetcher.MismatchError
		if !errors.As(err, &mismatch) || mismatch.File != f || mismatch.Got.IsZero() || mismatch.Got == f.Digest {
			t.Fatalf("%s: Verify says %v", name, err)
		}
		if got := in.Missing(); len(got) != fetcher.Pieces(f.Size) {
			t.Errorf("%s: missing are %v", name, got)
		}
		if err := s.Commit(t.Context(), []*store.Ingest{in}); err == nil || s.HasBlob(f.Digest) {
			t.Errorf("%s: Commit admitted it (%v)", name, err)
		}
		in.Close()
		// Nothing of it comes back later either.
		in = begin(t, s, originA, f)
		if got := in.Missing(); len(got) != fetcher.Pieces(f.Size) {
			t.Errorf("%s: after reopening, missing are %v", name, got)
		}
		write(t, in, content)
		if err := in.Verify(); err != nil {
			t.Errorf("%s: the right bytes are refused: %v", name, err)
		}
	}
}

func TestAnIngestIsResumedFromThePiecesThatHashToWhatTheJournalSays(t *testing.T) {
	content := random(4, 2*fetcher.PieceSize+10)
	f := storetest.File(t, "w.bin", content, true)
	for name, test := range map[string]struct {
		spoil func(dir string) error
		want  []int // missing
	}{
		"untouched":      {func(string) error { return nil }, []int{1}},
		"torn record":    {func(dir string) error { return os.Truncate(dir+"/journal", 24+7) }, []int{1, 2}},
		"no journal":     {func(dir string) error { return os.Remove(dir + "/journal") }, []int{0, 1, 2}},
		"no data":        {func(dir string) error { return os.Remove(dir + "/data") }, []int{0, 1, 2}},
		"flipped record": {func(dir string) error { return flip(dir+"/journal", 24+9) }, []int{1, 2}},
		"flipped index":  {func(dir string) error { return flip(dir+"/journal", 24) }, []int{1, 2}},
		"flipped data":   {func(dir string) error { return flip(dir+"/data", 2*fetcher.PieceSize+5) }, []int{1, 2}},
		"other size":     {func(dir string) error { return os.Truncate(dir+"/data", f.Size-1) }, []int{0, 1, 2}},
		"another name":   {func(dir string) error { return os.Link(dir+"/data", dir+"/../../elsewhere") }, []int{0, 1, 2}},
		"read-only":      {func(dir string) error { return os.Chmod(dir+"/data", 0o444) }, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := quickDir(t)
			s := storetest.OpenAt(t, dir)
			in := begin(t, s, originA, f)
			for _, i := range []int{0, 2} {
				p := fetcher.PieceAt(i, f.Size)
				if err := in.WritePiece(p, bytes.NewReader(content[p.Offset:p.Offset+p.Size])); err != nil {
					t.Fatal(err)
				}
			}
			in.Close()
			s.Close()
			ingests, _ := filepath.Glob(dir + "/ingests/*")
			if len(ingests) != 1 {
				t.Fatalf("ingests on disk: %v", ingests)
			}
			if err := test.spoil(ingests[0]); err != nil {
				t.Fatal(err)
			}
			s = storetest.OpenAt(t, dir)
			in = begin(t, s, originA, f)
			if got := indexes(in.Missing()); !slices.Equal(got, test.want) {
				t.Errorf("missing are %v, want %v", got, test.want)
			}
			write(t, in, content)
			if err := in.Verify(); err != nil {
				t.Fatal(err)
			}
			if err := s.Commit(t.Context(), []*store.Ingest{in}); err != nil {
				t.Error(err)
			}
		})
	}
}

// flip flips a bit of the byte at off, in a file of any mode.
func flip(path string, off int64) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{b[off] ^ 4}, off)
	return errors.Join(err, f.Close(), os.Chmod(path, info.Mode()))
}

func TestAFileOfOnePieceIsResumedOnlyIfItIsAllThere(t *testing.T) {
	s := storetest.Open(t)
	content := random(5, 1000)
	f := storetest.File(t, "a.txt", content, false)
	in := begin(t, s, originA, f)
	in.Close() // 1000 zero bytes are allocated now
	in = begin(t, s, originA, f)
	if len(in.Missing()) != 1 {
		t.Error("a file of zeros is taken for the content")
	}
	write(t, in, content)
	in.Close()
	in = begin(t, s, originA, f)
	if len(in.Missing()) != 0 {
		t.Error("what was held is missing")
	}
	if err := in.Verify(); err != nil {
		t.Error(err)
	}
}

func TestBytesOnTheirWayInAreNotSharedBetweenRepos(t *testing.T) {
	s := storetest.Open(t)
	content := random(6, twoPieces)
	f := storetest.File(t, "a.bin", content, true)
	a := begin(t, s, originA, f)
	write(t, a, content)
	if _, err := s.Ingest(originA, f); !errors.Is(err, store.ErrBusy) {
		t.Errorf("a second ingest of the same says %v", err)
	}
	b := begin(t, s, originB, f)
	if len(b.Missing()) != 2 {
		t.Error("another repository got the bytes of the first")
	}
	write(t, b, content)
	for _, in := range []*store.Ingest{a, b} {
		if err := in.Verify(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Commit(t.Context(), []*store.Ingest{a, b}); err != nil {
		t.Fatal(err)
	}
	if got := s.Origins(f.Digest); !slices.Equal(got, []store.Origin{originB, originA}) {
		t.Errorf("origins are %v", got)
	}
	if st := s.Stats(); st.Blobs != 1 || st.Bytes() != f.Size || st.Ingests != 0 {
		t.Errorf("stats are %+v", st)
	}
}

func TestABlobThatIsHereStaysTheSameFileWhenItsBytesComeAgain(t *testing.T) {
	s := storetest.Open(t)
	m := storetest.Fill(t, s, repoA, commit1, map[string][]byte{"a.bin": []byte("bytes")}, isLFS)
	view := mustView(t, s, store.ViewKey{Revision: m.Revision, Layout: store.Snapshot}, m, volume("1"))
	storetest.Ingest(t, s, repoB, m.Files[0], []byte("bytes"))
	if !s.CameThrough(m.Files[0].Digest, originB) {
		t.Error("the second origin is not recorded")
	}
	blob, err := s.OpenBlob(m.Files[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	shown, err := os.Stat(filepath.Join(s.Dir(), view.Path, "a.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if now, _ := blob.Stat(); !os.SameFile(shown, now) {
		t.Error("the blob was replaced under its view")
	}
}

func TestCommitAdmitsOnlyWhatIsVerifiedAndNothingOnceCancelled(t *testing.T) {
	s := storetest.Open(t)
	f := storetest.File(t, "a", []byte("a"), false)
	in := begin(t, s, originA, f)
	write(t, in, []byte("a"))
	if err := s.Commit(t.Context(), []*store.Ingest{in}); err == nil {
		t.Error("bytes that are not verified were committed")
	}
	if err := in.Verify(); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Commit(cancelled, []*store.Ingest{in}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled Commit says %v", err)
	}
	if s.HasBlob(f.Digest) {
		t.Error("a cancelled Commit admitted the blob")
	}
	if _, err := s.OpenBlob(f.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenBlob says %v", err)
	}
	if err := s.Commit(t.Context(), []*store.Ingest{in}); err != nil {
		t.Error(err)
	}
}
