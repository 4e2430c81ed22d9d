package modelexpress

import (
	"context"
	"errors"
	"io"
	"testing"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

// FuzzStream has a hostile server send chunks: what is taken of a file is in order and no
// more than the file has, and all that is wrong ends the stream with an error that says
// whose trouble it is.
func FuzzStream(f *testing.F) {
	commit, err := fetcher.ParseCommit("0123456789abcdef0123456789abcdef01234567")
	if err != nil {
		f.Fatal(err)
	}
	name := commit.String()
	add := func(chunks ...*modelexpresspb.FileChunk) {
		var b []byte
		for _, c := range chunks {
			m, err := proto.Marshal(c)
			if err != nil || len(m) > 255 {
				f.Fatal(len(m), err)
			}
			b = append(append(b, byte(len(m))), m...)
		}
		f.Add(b)
	}
	add(&modelexpresspb.FileChunk{RelativePath: "a", Data: []byte("abc"), TotalSize: 5, CommitHash: &name},
		&modelexpresspb.FileChunk{RelativePath: "a", Data: []byte("de"), Offset: 3, TotalSize: 5, IsLastChunk: true},
		&modelexpresspb.FileChunk{RelativePath: "b", IsLastChunk: true, IsLastFile: true})
	add(&modelexpresspb.FileChunk{RelativePath: "../a\x1b", Data: []byte("abc"), Offset: 1 << 63, TotalSize: 1<<64 - 1, CommitHash: &name})
	add(&modelexpresspb.FileChunk{RelativePath: "a", TotalSize: 5, CommitHash: proto.String("latest")})
	f.Fuzz(func(t *testing.T, wire []byte) {
		end := io.EOF
		tape := &tape{what: "read", commit: commit, recv: func() (*modelexpresspb.FileChunk, error) {
			if len(wire) == 0 {
				return nil, end
			}
			n := min(int(wire[0]), len(wire)-1)
			c := &modelexpresspb.FileChunk{}
			err := proto.Unmarshal(wire[1:1+n], c)
			wire = wire[1+n:]
			return c, callErrorOr(err)
		}}
		path, got, size := "", int64(0), int64(0)
		for first := true; ; first = false {
			c, err := tape.next()
			if err != nil {
				checkEnd(t, err, path, got, size)
				return
			}
			if first && c.GetCommitHash() != name {
				t.Fatalf("a stream of commit %q is read", c.GetCommitHash())
			}
			if path == "" {
				path, got, size = c.RelativePath, 0, int64(c.TotalSize)
			}
			if c.RelativePath != path || int64(c.Offset) != got || size < 0 || int64(c.TotalSize) != size {
				t.Fatalf("%q %d of %d follows %q %d of %d", c.RelativePath, c.Offset, c.TotalSize, path, got, size)
			}
			if got += int64(len(c.Data)); got > size || c.IsLastChunk != (got == size) {
				t.Fatalf("%d of %d bytes, the last: %v", got, size, c.IsLastChunk)
			}
			if c.IsLastChunk {
				path = ""
			}
		}
	})
}

func callErrorOr(err error) error {
	if err != nil {
		return callError(context.Background(), "read", err)
	}
	return nil
}

func checkEnd(t *testing.T, err error, path string, got, size int64) {
	t.Helper()
	if err == io.EOF {
		if path != "" {
			t.Fatalf("it ends well after %d of %d bytes", got, size)
		}
		return
	}
	if fetcher.Unreachable(err) == errors.Is(err, fetcher.ErrAbsent) || fetcher.Denied(err) {
		t.Fatalf("whose trouble it is: %v", err)
	}
	for _, r := range err.Error() {
		if !unicode.IsPrint(r) {
			t.Fatalf("%q", err)
		}
	}
	if len(err.Error()) > 4<<10 {
		t.Fatalf("%d bytes of error", len(err.Error()))
	}
}

// FuzzURL: what is taken names a host and a port.
func FuzzURL(f *testing.F) {
	for _, s := range []string{"mx:8001", "http://mx", "https://[::1]:9", "http://u:p@mx", "::", "mx:8001/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := parseURL(s); err == nil && len(got.address) < 3 {
			t.Fatalf("%q: %q", s, got.address)
		}
	})
}
