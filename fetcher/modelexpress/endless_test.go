package modelexpress_test

import (
	"context"
	"fmt"
	"math"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress"
	pb "github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

// endless is a server whose streams have no end, and never come to the file that is wanted.
type endless struct {
	pb.UnimplementedModelServiceServer
	list []*pb.ModelFileInfo
	next func(i int) *pb.FileChunk
}

func (e endless) EnsureModelDownloaded(r *pb.ModelDownloadRequest, s grpc.ServerStreamingServer[pb.ModelStatusUpdate]) error {
	return s.Send(&pb.ModelStatusUpdate{Status: pb.ModelStatus_DOWNLOADED, ResolvedRevision: r.Revision})
}

func (e endless) ListModelFiles(context.Context, *pb.ModelFilesRequest) (*pb.ModelFileList, error) {
	return &pb.ModelFileList{Files: e.list}, nil
}

func (e endless) StreamModelFiles(r *pb.ModelFilesRequest, s grpc.ServerStreamingServer[pb.FileChunk]) error {
	for i := 0; ; i++ {
		c := e.next(i)
		c.CommitHash = r.Revision
		if err := s.Send(c); err != nil {
			return err
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// A stream of all files has what the server lists, once, and comes in time to what is wanted.
func TestAStreamOfAllFilesThatHasNoEndIsLeft(t *testing.T) {
	file := fileOf(t, "model.safetensors", bytesOf(100, 1))
	wanted := &pb.ModelFileInfo{RelativePath: file.Path.String(), Size: uint64(file.Size)}
	x := func(path string) *pb.FileChunk {
		return &pb.FileChunk{RelativePath: path, Data: []byte("x"), TotalSize: 1, IsLastChunk: true}
	}
	for name, c := range map[string]struct {
		list []*pb.ModelFileInfo
		next func(i int) *pb.FileChunk
		wait time.Duration
	}{
		"files that are not listed": {
			[]*pb.ModelFileInfo{wanted},
			func(i int) *pb.FileChunk { return x(fmt.Sprintf("x%d", i)) },
			time.Minute,
		},
		"one file again and again": {
			[]*pb.ModelFileInfo{wanted, {RelativePath: "x", Size: 1}},
			func(int) *pb.FileChunk { return x("x") },
			time.Minute,
		},
		"a file of another size": {
			[]*pb.ModelFileInfo{wanted, {RelativePath: "x", Size: 1}},
			func(i int) *pb.FileChunk {
				return &pb.FileChunk{RelativePath: "x", Data: []byte("x"), Offset: uint64(i), TotalSize: math.MaxInt64}
			},
			time.Minute,
		},
		"a file that is as long as is listed": {
			[]*pb.ModelFileInfo{wanted, {RelativePath: "x", Size: math.MaxInt64}},
			func(i int) *pb.FileChunk {
				return &pb.FileChunk{RelativePath: "x", Data: []byte("x"), Offset: uint64(i), TotalSize: math.MaxInt64}
			},
			time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
			server := grpc.NewServer()
			pb.RegisterModelServiceServer(server, endless{list: c.list, next: c.next})
			go server.Serve(l)
			t.Cleanup(server.Stop)
			client := newClient(t, modelexpress.Config{URL: l.Addr().String(), Wait: c.wait})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := client.Open(ctx, revision(t, "org/name", commit), file, fetcher.Secret{})
			if ctx.Err() != nil || !fetcher.Unreachable(err) {
				t.Error(err)
			}
		})
	}
}
