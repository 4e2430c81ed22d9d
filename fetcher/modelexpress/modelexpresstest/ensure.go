package modelexpresstest

import (
	"context"
	"fmt"
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

// entry is what the server's registry says of a model.
type entry struct {
	status modelexpresspb.ModelStatus
	done   chan struct{} // closed when the download under way is over
	detail string        // of its failure
	others bool          // another server that shares the books did it
}

// EnsureModelDownloaded says at once whether the model is there; then nothing until its
// download is over, and then that twice. A download that fails is no error of the call, and
// one that nobody waits for goes on.
func (s *Server) EnsureModelDownloaded(req *modelexpresspb.ModelDownloadRequest, stream grpc.ServerStreamingServer[modelexpresspb.ModelStatusUpdate]) error {
	s.note(stream.Context(), "EnsureModelDownloaded", nil)
	if req.Provider != modelexpresspb.ModelProvider_HUGGING_FACE {
		return status.Errorf(codes.InvalidArgument, "Invalid provider: %d", req.Provider)
	}
	commit, err := s.resolve(req.ModelName, req.Revision)
	if err != nil {
		return err
	}
	tell := func(st modelexpresspb.ModelStatus, message string) error {
		u := &modelexpresspb.ModelStatusUpdate{ModelName: req.ModelName, Status: st, Message: &message, Provider: req.Provider}
		if s.traits.revisions {
			u.ResolvedRevision = &commit
		}
		return stream.Send(u)
	}
	e, first := s.claim(req, commit)
	if first == "" {
		return tell(modelexpresspb.ModelStatus_DOWNLOADED, "Model already downloaded")
	}
	if err := tell(modelexpresspb.ModelStatus_DOWNLOADING, first); err != nil {
		return err
	}
	s.wait(1)
	defer s.wait(-1)
	select {
	case <-e.done:
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	s.mu.Lock()
	failed := e.detail
	s.mu.Unlock()
	if failed != "" {
		if err := tell(modelexpresspb.ModelStatus_ERROR, "Download failed: "+failed); err != nil {
			return err
		}
		return tell(modelexpresspb.ModelStatus_ERROR, "Model download failed")
	}
	for range 2 {
		if err := tell(modelexpresspb.ModelStatus_DOWNLOADED, "Model download completed successfully"); err != nil {
			return err
		}
	}
	return nil
}

// claim begins a download unless the books say that there is one or was one that ended
// well. Before 0.6.0 they are kept by name alone: whether weights were asked for is lost.
func (s *Server) claim(req *modelexpresspb.ModelDownloadRequest, commit string) (e *entry, first string) {
	key := req.ModelName
	if s.traits.revisions {
		key = fmt.Sprint(req.ModelName, " ", commit, " ", req.IgnoreWeights)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first = "Model download in progress"
	if e = s.entries[key]; e != nil && e.others {
		e.others = false // seen once: then its directory is looked for
		return e, ""
	} else if e != nil {
		switch _, err := os.Stat(snapshot(s.cfg.Dir, req.ModelName, commit)); {
		case e.status == modelexpresspb.ModelStatus_DOWNLOADING:
			return e, first
		case e.status == modelexpresspb.ModelStatus_ERROR:
			first = "Previous download failed, retrying"
		case err == nil:
			return e, ""
		}
	}
	e = &entry{status: modelexpresspb.ModelStatus_DOWNLOADING, done: make(chan struct{})}
	s.entries[key] = e
	s.work.Go(func() {
		err := s.download(s.life, req.ModelName, commit, req.IgnoreWeights)
		s.mu.Lock()
		defer s.mu.Unlock()
		defer close(e.done)
		e.status = modelexpresspb.ModelStatus_DOWNLOADED
		if err != nil {
			e.status, e.detail = modelexpresspb.ModelStatus_ERROR, err.Error()
		}
	})
	return e, first
}

// Register has the next request for a model learn that it is there, as one does that waited
// for another server, which shares the books and not the disk.
func (s *Server) Register(model, commit string) {
	key := model
	if s.traits.revisions {
		key = fmt.Sprint(model, " ", commit, " ", false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	done := make(chan struct{})
	close(done)
	s.entries[key] = &entry{status: modelexpresspb.ModelStatus_DOWNLOADED, done: done, others: true}
}

// download brings what the downloader does not leave out. Offline it only looks for the
// directory.
func (s *Server) download(ctx context.Context, model, commit string, ignoreWeights bool) error {
	to := snapshot(s.cfg.Dir, model, commit)
	if s.cfg.Downloading != nil {
		if err := s.cfg.Downloading(ctx, model, commit); err != nil {
			return err
		}
	}
	if s.cfg.Offline {
		_, err := os.Stat(to)
		return err
	}
	from := snapshot(s.cfg.Upstream, model, commit)
	list, err := os.ReadDir(from) // and no sub-directory
	if s.cfg.Upstream == "" || err != nil {
		if _, err := os.Stat(to); err == nil {
			return nil
		}
		return fmt.Errorf("failed to fetch model info for %s", model)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, f := range list {
		if leftOut(f.Name()) || f.IsDir() || ignoreWeights && slices.Contains(weights, path.Ext(f.Name())) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), content, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return s.writeMain(model, commit)
}

// writeMain has main be what it is upstream, if that was downloaded.
func (s *Server) writeMain(model, commit string) error {
	if ref(s.cfg.Upstream, model, "main") != commit {
		return nil
	}
	refs := filepath.Join(folder(s.cfg.Dir, model), "refs")
	if err := os.MkdirAll(refs, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(refs, "main"), []byte(commit), 0o644)
}

var (
	images  = []string{".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".ico", ".bmp", ".tiff", ".tif"}
	weights = []string{".bin", ".safetensors", ".h5", ".msgpack", ".iop", ".gas"}
)

// leftOut reports whether the downloader takes no file of this name.
func leftOut(name string) bool {
	return strings.HasPrefix(name, ".") || name == "README.md" || slices.Contains(images, path.Ext(name))
}
