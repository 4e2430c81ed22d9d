package modelexpresstest

import (
	"cmp"
	"context"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

const (
	defaultChunk = 32 << 10
	// maxRead is the most that one read of its file library returns.
	maxRead = 2 << 20
)

func folder(dir, model string) string {
	return filepath.Join(dir, "models--"+strings.ReplaceAll(model, "/", "--"))
}

func snapshot(dir, model, commit string) string {
	return filepath.Join(folder(dir, model), "snapshots", commit)
}

// ref returns what a ref of a model names, or "".
func ref(dir, model, name string) string {
	text, _ := os.ReadFile(filepath.Join(folder(dir, model), "refs", filepath.FromSlash(name)))
	return string(text)
}

// resolve says which commit a request is about. With a revision it never falls back.
func (s *Server) resolve(model string, revision *string) (string, error) {
	from := s.cfg.Upstream
	if s.cfg.Offline {
		from = s.cfg.Dir
	}
	if s.traits.revisions && revision != nil {
		if commit := ref(from, model, *revision); from != "" && commit != "" {
			return commit, nil
		}
		if _, err := os.Stat(snapshot(from, model, *revision)); from != "" && err == nil && *revision != "" {
			return *revision, nil
		}
		return "", status.Errorf(codes.NotFound, "Failed to resolve revision %s of %s", *revision, model)
	}
	if commit := ref(from, model, "main"); from != "" && commit != "" {
		return commit, nil
	}
	if newest := s.newest(model); newest != "" {
		return newest, nil
	}
	if from != "" && !s.cfg.Offline {
		return "main", nil // its download will fail
	}
	return "", status.Errorf(codes.NotFound, "Model not found: %s", model)
}

// newest returns the snapshot that was written last, by its directory's name: a link
// counts.
func (s *Server) newest(model string) string {
	list, _ := os.ReadDir(filepath.Dir(snapshot(s.cfg.Dir, model, "x")))
	newest := ""
	var at int64
	for _, d := range list {
		if info, err := os.Stat(snapshot(s.cfg.Dir, model, d.Name())); err == nil && info.ModTime().UnixNano() >= at {
			newest, at = d.Name(), info.ModTime().UnixNano()
		}
	}
	return newest
}

// onDisk returns the snapshot that is listed and streamed. Without a revision the Hub is
// asked what main is, if it is not offline; the registry never.
func (s *Server) onDisk(req *modelexpresspb.ModelFilesRequest) (string, error) {
	if req.Provider != modelexpresspb.ModelProvider_HUGGING_FACE {
		return "", status.Errorf(codes.InvalidArgument, "Invalid provider: %d", req.Provider)
	}
	commit := ""
	switch {
	case s.traits.revisions && req.Revision != nil:
		commit = cmp.Or(ref(s.cfg.Dir, req.ModelName, req.GetRevision()), req.GetRevision())
	case !s.cfg.Offline && s.cfg.Upstream == "":
	default:
		commit, _ = s.resolve(req.ModelName, nil)
		if _, err := os.Stat(snapshot(s.cfg.Dir, req.ModelName, commit)); err != nil {
			commit = s.newest(req.ModelName)
		}
	}
	if info, err := os.Stat(snapshot(s.cfg.Dir, req.ModelName, commit)); commit == "" || err != nil || !info.IsDir() {
		return "", status.Errorf(codes.NotFound, "Model not found: %s", req.ModelName)
	}
	return commit, nil
}

// list walks a snapshot, following links, in the order of its directories; what is in it
// counts, whoever put it there and whether it is whole.
func (s *Server) list(req *modelexpresspb.ModelFilesRequest) (commit string, files []*modelexpresspb.ModelFileInfo, err error) {
	if commit, err = s.onDisk(req); err != nil {
		return "", nil, err
	}
	root := snapshot(s.cfg.Dir, req.ModelName, commit)
	var walk func(below string) error
	walk = func(below string) error {
		dir, err := os.Open(filepath.Join(root, below))
		if err != nil {
			return err
		}
		defer dir.Close()
		names, err := dir.Readdirnames(-1)
		for _, name := range names {
			rel := path.Join(below, name)
			info, err := os.Stat(filepath.Join(root, rel))
			switch {
			case err != nil:
				return err
			case !info.IsDir():
				files = append(files, &modelexpresspb.ModelFileInfo{RelativePath: rel, Size: uint64(info.Size())})
			default:
				if err := walk(rel); err != nil {
					return err
				}
			}
		}
		return err
	}
	if err := walk(""); err != nil {
		return "", nil, status.Errorf(codes.Internal, "Failed to list files: %v", err)
	}
	if s.traits.revisions && req.IgnoreWeights {
		files = slices.DeleteFunc(files, func(f *modelexpresspb.ModelFileInfo) bool { return slices.Contains(weights, path.Ext(f.RelativePath)) })
	}
	if !s.traits.selects || req.FileSelector == nil {
		return commit, files, nil
	}
	for _, want := range req.FileSelector.Paths {
		if !slices.ContainsFunc(files, func(f *modelexpresspb.ModelFileInfo) bool { return f.RelativePath == want }) {
			return "", nil, status.Errorf(codes.NotFound, "Selected file not found in model directory: %s", want)
		}
	}
	return commit, slices.DeleteFunc(files, func(f *modelexpresspb.ModelFileInfo) bool {
		return !slices.Contains(req.FileSelector.Paths, f.RelativePath)
	}), nil
}

// ListModelFiles names no commit.
func (s *Server) ListModelFiles(ctx context.Context, req *modelexpresspb.ModelFilesRequest) (*modelexpresspb.ModelFileList, error) {
	s.note(ctx, "ListModelFiles", nil)
	_, files, err := s.list(req)
	if err != nil {
		return nil, err
	}
	answer := &modelexpresspb.ModelFileList{ModelName: req.ModelName, Files: files}
	for _, f := range files {
		answer.TotalSize += f.Size
	}
	return answer, nil
}

// StreamModelFiles streams the files as they were listed: one that became shorter ends
// without its last chunk, one that became longer goes on after it.
func (s *Server) StreamModelFiles(req *modelexpresspb.ModelFilesRequest, stream grpc.ServerStreamingServer[modelexpresspb.FileChunk]) error {
	s.note(stream.Context(), "StreamModelFiles", req.FileSelector.GetPaths())
	s.open(1)
	defer s.open(-1)
	commit, files, err := s.list(req)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return status.Error(codes.NotFound, "No files found in model directory")
	}
	first := true
	send := func(c *modelexpresspb.FileChunk) error {
		if first {
			c.CommitHash, first = &commit, false
		}
		if s.cfg.Send != nil {
			return s.cfg.Send(c, stream)
		}
		return stream.Send(c)
	}
	size := min(cmp.Or(req.ChunkSize, defaultChunk), maxRead)
	for i, f := range files {
		if s.cfg.Streaming != nil {
			s.cfg.Streaming(f.RelativePath)
		}
		name := filepath.Join(snapshot(s.cfg.Dir, req.ModelName, commit), f.RelativePath)
		if err := sendFile(name, f, int(size), i == len(files)-1, send); err != nil {
			return err
		}
	}
	return nil
}

func sendFile(name string, f *modelexpresspb.ModelFileInfo, size int, lastFile bool, send func(*modelexpresspb.FileChunk) error) error {
	file, err := os.Open(name)
	if err != nil {
		return status.Errorf(codes.Internal, "Failed to open file: %v", err)
	}
	defer file.Close()
	for offset := uint64(0); ; {
		data := make([]byte, size)
		n, err := file.Read(data)
		if err == io.EOF && (f.Size > 0 || offset > 0) {
			return nil
		}
		if err != nil && err != io.EOF {
			return status.Errorf(codes.Internal, "Failed to read file: %v", err)
		}
		last := offset+uint64(n) >= f.Size
		if err := send(&modelexpresspb.FileChunk{
			RelativePath: f.RelativePath, Data: data[:n], Offset: offset, TotalSize: f.Size, IsLastChunk: last, IsLastFile: last && lastFile,
		}); err != nil || n == 0 {
			return err
		}
		offset += uint64(n)
	}
}

func (s *Server) open(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams += n
	s.most = max(s.most, s.streams)
}
