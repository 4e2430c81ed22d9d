package sourcetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// alone: what a liar says of its file gets nothing into the Sink, and costs no other file.
func alone(t *testing.T, h Harness, few []Content, lie Lie, mayBeTrue bool) {
	liar := few[slices.IndexFunc(few, func(c Content) bool { return c.Path.String() == "liar.bin" })]
	h.Lies[lie](t, "liar.bin")
	t.Run("its ranges", func(t *testing.T) { lyingRanges(t, h, liar, mayBeTrue) })
	ctx, cancel := context.WithTimeout(t.Context(), 5*stall) // all five tries could take longer
	defer cancel()
	x := bring(ctx, t, h, few, h.Source)
	_, came := x.sink.here["liar.bin"] // if so, its bytes are right
	if came && !mayBeTrue || !came && x.err == nil {
		t.Errorf("liar.bin came: %v, and the fetch says %v", came, x.err)
	}
	if x.sink.here["honest.bin"] == nil && lie != AbsentRepo && lie != OtherRevision {
		t.Errorf("honest.bin did not come: %v", x.err)
	}
	if !h.Hub && fetcher.Denied(x.err) {
		t.Errorf("it denies what it was not asked about: %v", x.err)
	}
}

// lyingRanges: an Object gives no bytes as if they were those of the file, unless they fail
// its Digest; and it ends when its context does.
func lyingRanges(t *testing.T, h Harness, liar Content, mayBeTrue bool) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	all, err := func() (all []byte, err error) {
		o, err := h.Source.Open(ctx, h.Revision, liar.File, h.Credential)
		if err != nil {
			return nil, err
		}
		defer o.Close()
		for i := range fetcher.Pieces(liar.Size) {
			p := fetcher.PieceAt(i, liar.Size)
			b, err := read(ctx, o, p.Offset, p.Size)
			if err != nil {
				return nil, err
			}
			if int64(len(b)) != p.Size {
				t.Errorf("%d bytes came for %d, and no error", len(b), p.Size)
			}
			all = append(all, b...)
		}
		return all, nil
	}()
	if took := time.Since(began); took > time.Second+soon {
		t.Errorf("it took %s to end", took)
	}
	if err == nil && !mayBeTrue && digestOf(t, liar.Digest.Algorithm(), all) == liar.Digest {
		t.Error("the far end did not lie")
	}
}

// before: with an honest Source behind the liar all files arrive, and it is told why the
// liar was passed over.
func before(t *testing.T, h Harness, few []Content, lie Lie, why []fetcher.Reason, mayBeTrue bool) {
	h.Lies[lie](t, "liar.bin")
	x := bring(t.Context(), t, h, few, h.Source, inMemory(few))
	if x.err != nil {
		t.Fatal(x.err)
	}
	for _, c := range few {
		if x.sink.here[c.Path.String()] == nil {
			t.Errorf("%s did not come", c.Path)
		}
	}
	passed := x.passed["liar.bin"]
	if lie == AbsentRepo || lie == OtherRevision { // one file's answer may be enough for all
		passed = append(passed, x.passed["honest.bin"]...)
	}
	if len(passed) == 0 && mayBeTrue {
		return
	}
	// On a machine that is busy the liar may be taken for stalled before it is found out.
	named := slices.ContainsFunc(passed, func(p fetcher.Passed) bool {
		return p.Source == h.Source.Name() && p.Next == "honest" && slices.Contains(why, p.Why)
	})
	if !named {
		t.Errorf("passed over: %+v; want %s, for one of %q", passed, h.Source.Name(), why)
	}
}
