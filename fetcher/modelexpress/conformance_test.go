package modelexpress_test

import (
	"maps"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/fetcher/modelexpress"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresstest"
	"github.com/ballast-csi/ballast/fetcher/sourcetest"
)

type (
	chunk       = modelexpresspb.FileChunk
	chunkStream = grpc.ServerStreamingServer[chunk]
)

// liar says about some files what is not so. Its zero value is honest.
type liar struct {
	mu   sync.Mutex // guards lies
	lies map[string]func(c *chunk, stream chunkStream) error
}

func (l *liar) send(c *chunk, stream chunkStream) error {
	l.mu.Lock()
	lie := l.lies[c.RelativePath]
	l.mu.Unlock()
	if lie == nil {
		return stream.Send(c)
	}
	return lie(c, stream)
}

func (l *liar) about(lie func(c *chunk, stream chunkStream) error) func(testing.TB, string) {
	return func(_ testing.TB, path string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		lies := maps.Clone(l.lies)
		if lies == nil {
			lies = map[string]func(*chunk, chunkStream) error{}
		}
		lies[path] = lie
		l.lies = lies
	}
}

// stuck sends nothing more, and does not end.
func stuck(stream chunkStream) error {
	<-stream.Context().Done()
	return stream.Context().Err()
}

func harness(release string) sourcetest.Make {
	return func(t *testing.T, content []sourcetest.Content) sourcetest.Harness {
		l := &liar{}
		dir := t.TempDir()
		files := map[string][]byte{}
		for _, c := range content {
			if !lacks(c.Path.String()) {
				files[c.Path.String()] = c.Bytes
			}
		}
		write(t, dir, "org/name", commit, files)
		put(t, filepath.Join(dir, "models--org--name/refs/main"), []byte(commit))
		w := newWorld(t, modelexpresstest.Config{Release: release, Dir: dir, Offline: true, Send: l.send}, modelexpress.Config{})
		snapshot := filepath.Join(dir, "models--org--name/snapshots", commit)
		return sourcetest.Harness{Source: w.client, Revision: w.rev, Lacks: lacks, Lies: map[sourcetest.Lie]func(testing.TB, string){
			sourcetest.Short: l.about(func(c *chunk, stream chunkStream) error {
				if c.IsLastChunk {
					return nil
				}
				return stream.Send(c)
			}),
			sourcetest.Long: l.about(func(c *chunk, stream chunkStream) error {
				if err := stream.Send(c); err != nil || !c.IsLastChunk {
					return err
				}
				return stream.Send(&chunk{RelativePath: c.RelativePath, Data: []byte("more"), Offset: c.TotalSize, TotalSize: c.TotalSize, IsLastChunk: true, IsLastFile: true})
			}),
			sourcetest.WrongBytes: l.about(func(c *chunk, stream chunkStream) error {
				c.Data[len(c.Data)/2] ^= 1
				return stream.Send(c)
			}),
			sourcetest.WrongOffset: l.about(func(c *chunk, stream chunkStream) error {
				c.Offset += 5
				return stream.Send(c)
			}),
			sourcetest.Stuck: l.about(func(c *chunk, stream chunkStream) error {
				if c.Offset > 0 {
					return stuck(stream)
				}
				return stream.Send(c)
			}),
			sourcetest.Dripping: l.about(func(c *chunk, stream chunkStream) error {
				for i := range c.Data {
					part := proto.CloneOf(c)
					part.Data, part.Offset, part.IsLastChunk, part.IsLastFile = c.Data[i:i+1], c.Offset+uint64(i), false, false
					if i > 0 || c.Offset > 0 {
						part.CommitHash = nil
					}
					if err := stream.Send(part); err != nil {
						return err
					}
					time.Sleep(20 * time.Millisecond)
				}
				return nil
			}),
			sourcetest.Disconnect: l.about(func(c *chunk, stream chunkStream) error {
				if c.Offset > 0 {
					return status.Error(codes.Unavailable, "going away")
				}
				return stream.Send(c)
			}),
			sourcetest.AbsentFile:    func(t testing.TB, path string) { remove(t, filepath.Join(snapshot, path)) },
			sourcetest.AbsentRepo:    func(t testing.TB, _ string) { remove(t, filepath.Join(dir, "models--org--name")) },
			sourcetest.OtherRevision: func(t testing.TB, _ string) { move(t, snapshot, filepath.Join(filepath.Dir(snapshot), other)) },
		}}
	}
}

func TestConformance(t *testing.T) { sourcetest.Run(t, harness("0.7.0")) }
