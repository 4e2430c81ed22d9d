package fetcher

import (
	"context"
	"io"
)

// PieceSize is the unit of transfer, retry and resume, in bytes: 16 MiB.
const PieceSize = 16 << 20

// Piece is a fixed-size range of a file: bytes Offset to Offset+Size. Every Piece
// but a file's last is PieceSize long.
type Piece struct {
	Index        int
	Offset, Size int64
}

// Pieces returns how many Pieces a file of size bytes has; an empty file has none.
func Pieces(size int64) int { return int((size + PieceSize - 1) / PieceSize) }

// PieceAt returns the i-th Piece of a file of size bytes.
func PieceAt(i int, size int64) Piece {
	off := int64(i) * PieceSize
	return Piece{i, off, min(PieceSize, size-off)}
}

// Source gives bytes for a Digest, and nothing else. It is never trusted: what it
// gives is verified before it is used. Implementations are safe for concurrent use.
type Source interface {
	// Name is the word for this Source in progress, events and metrics: "hub".
	Name() string
	// Open prepares reading f of rev; only a Hub has any use for cred. It may ask the
	// network; ctx is for that alone, not for the Object's life. It bounds its own
	// waits for an answer, as only the Source knows what is worth waiting for. An
	// error that matches ErrAbsent says that f is not to be had here.
	Open(ctx context.Context, rev Revision, f File, cred Secret) (Object, error)
}

// Object is one file of a Source, open for reading ranges, several at a time.
type Object interface {
	// ReadRange returns a reader of exactly n bytes from offset off (both in
	// bytes). A Source that ends early or cannot give the range makes Read
	// return an error that Transient judges; it never returns other bytes as if
	// they were these. The reader must be closed; ctx ends it early.
	ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
	io.Closer
}

// Sequential is an Object whose Source only gives a file from its start to its end. Its
// ranges are asked for one after another and in order, never two at a time.
type Sequential interface {
	Object
	Sequential()
}

// Authority says what a Ref and a Revision are. What it knows nothing of it answers with
// ErrNotFound or ErrRevisionNotFound. Implementations are safe for concurrent use.
type Authority interface {
	// Name is recorded with what this Authority said: "hub".
	Name() string
	// Resolve says what ref names now. Its answer proves no access to content. Only a
	// Hub has any use for cred.
	Resolve(ctx context.Context, repo Repo, ref Ref, cred Secret) (Resolution, error)
	// Manifest lists every file of rev. Its answer proves no access to content.
	Manifest(ctx context.Context, rev Revision, cred Secret) (*Manifest, error)
}

// Hub is the Authority before which all others step back, and the one that says whether a
// credential may read a Repo.
type Hub interface {
	Authority
	// Prove shows that cred may read the content of path at ref, and says what
	// it saw. With a zero path it proves access to the repository as a whole.
	Prove(ctx context.Context, repo Repo, ref Ref, path Path, cred Secret) (Proof, error)
}

// Resolution is what a Ref of a Repo names at one moment.
type Resolution struct {
	Commit Commit
	// RepoID is the Authority's own name for the repository, which no other one
	// ever gets, not even one registered later under the same name: 1 to 64 of
	// [0-9A-Za-z_-]. "" if the Authority tells none.
	RepoID string
}

// Proof is what an Authority showed while it let a credential read a file.
type Proof struct {
	Commit Commit // what the ref named; zero if not told
	Digest Digest // of the file; zero if not told
}

// Sink is where the engine brings bytes. Implementations are safe for concurrent
// use: many files are begun at once, and verified ones are committed meanwhile.
type Sink interface {
	// Begin returns the Ingest that f's bytes go to, or nil if f's bytes are
	// here already. It may wait for another fetch of the same bytes.
	Begin(ctx context.Context, f File) (Ingest, error)
	// Commit makes verified Ingests durable, as one batch.
	Commit(ctx context.Context, verified []Ingest) error
}

// Ingest takes the bytes of one file. Different Pieces may be written at the same
// time; Verify follows the last of them.
type Ingest interface {
	File() File
	// Missing lists the Pieces not yet held, in order.
	Missing() []Piece
	// WritePiece reads exactly p.Size bytes from r and keeps them as p. On an
	// error, p is still missing.
	WritePiece(p Piece, r io.Reader) error
	// Verify reports whether the bytes hash to the file's Digest. If they do
	// not, it returns a *MismatchError and every Piece is missing again.
	Verify() error
	// Close ends this use. Pieces held and not committed stay for a later Begin.
	Close() error
}
