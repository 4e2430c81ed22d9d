package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// modelSize says how large a model the demo makes, and how fast its Hub gives it.
type modelSize struct {
	shards         []int64 // bytes of each safetensors file
	small          int     // how many small files
	bytesPerSecond int64
}

// fullModel has every shard over five Pieces (16 MiB each): several are on their way
// at once, and their hashes overlap the transfer.
func fullModel() modelSize {
	return modelSize{shards: []int64{84 << 20, 92 << 20, 108 << 20}, small: 300, bytesPerSecond: 130e6}
}

// changed is the index of the shard that the second commit changes.
func (s modelSize) changed() int { return len(s.shards) / 2 }

// disk is how many bytes of disk the demo needs: two caches, each with both commits.
func (s modelSize) disk() int64 {
	need := s.shards[s.changed()]
	for _, n := range s.shards {
		need += n
	}
	return 2*need + 128<<20
}

// modelFile is a file of the demo's model. open gives the same bytes each time.
type modelFile struct {
	path string
	size int64 // bytes
	lfs  bool
	open func() io.Reader
}

// makeModel lists the files of the model's n-th commit (1 or 2). Their bytes look
// random and are the same on every machine.
func makeModel(s modelSize, n int) []modelFile {
	text := func(path, content string) modelFile {
		return modelFile{path, int64(len(content)), false, func() io.Reader { return strings.NewReader(content) }}
	}
	files := []modelFile{
		text(".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"),
		text("README.md", "---\nlicense: apache-2.0\n---\nMade by \"ballast demo\": these weights are noise.\n"),
		text("config.json", `{"architectures": ["NoiseForCausalLM"], "hidden_size": 1024, "torch_dtype": "bfloat16"}`+"\n"),
		text("original/.gitkeep", ""), // an empty file
	}
	index := &strings.Builder{}
	for i, size := range s.shards {
		path := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(s.shards))
		seed := path
		if n > 1 && i == s.changed() {
			seed += fmt.Sprintf(" of commit %d", n)
		}
		files = append(files, safetensors(path, seed, size))
		fmt.Fprintf(index, "%q: %q, ", fmt.Sprintf("layer.%d", i), path)
	}
	files = append(files,
		text("model.safetensors.index.json", `{"weight_map": {`+strings.TrimSuffix(index.String(), ", ")+"}}\n"),
		modelFile{"tokenizer.json", 2<<20 + 7, true, func() io.Reader { return noise("tokenizer.json", 2<<20+7) }})
	for i := range s.small {
		path := fmt.Sprintf("experts/layer-%02d/expert-%03d.bin", i%12, i)
		size := int64(1 + i*97%12000)
		files = append(files, modelFile{path, size, false, func() io.Reader { return noise(path, size) }})
	}
	return files
}

// safetensors is one tensor of noise in the safetensors format: the header's length in
// 8 bytes little endian, the header in JSON, the data.
func safetensors(path, seed string, size int64) modelFile {
	const header = 128
	data := size - 8 - header
	json := fmt.Sprintf(`{"weight":{"dtype":"BF16","shape":[%d],"data_offsets":[0,%d]}}`, data/2, data)
	head := binary.LittleEndian.AppendUint64(nil, header)
	head = append(head, json+strings.Repeat(" ", header-len(json))...)
	return modelFile{path, size, true, func() io.Reader { return io.MultiReader(bytes.NewReader(head), noise(seed, data)) }}
}

// noise is size bytes that depend on seed alone.
func noise(seed string, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8(sha256.Sum256([]byte(seed))), size)
}

// putModel brings files into s, as a Hub holds them, and points refs at the commit.
// progress is called with the bytes done since the last call.
func putModel(ctx context.Context, s *store.Store, repo fetcher.Repo, files []modelFile, refs []string, progress func(int64)) (*fetcher.Manifest, error) {
	entries := make([]fetcher.File, len(files))
	const batch = 64 // files open at once
	for from := 0; from < len(files); from += batch {
		to := min(from+batch, len(files))
		if err := putFiles(ctx, s, repo, files[from:to], entries[from:to], progress); err != nil {
			return nil, err
		}
	}
	id := sha256.New()
	for _, f := range slices.SortedFunc(slices.Values(entries), func(a, b fetcher.File) int { return strings.Compare(a.Path.String(), b.Path.String()) }) {
		fmt.Fprintln(id, f.Path, f.Digest)
	}
	commit, err := fetcher.ParseCommit(hex.EncodeToString(id.Sum(nil))[:40])
	if err != nil {
		return nil, err
	}
	const authority = "demo"
	m, err := fetcher.NewManifest(fetcher.Revision{Repo: repo, Commit: commit}, authority, entries)
	if err != nil {
		return nil, err
	}
	if err := s.PutManifest(store.Origin{Repo: repo}, m); err != nil {
		return nil, err
	}
	for _, name := range refs {
		ref, err := fetcher.ParseRef(name)
		if err != nil {
			return nil, err
		}
		if err := s.SetRef(store.Origin{Repo: repo}, ref, store.RefRecord{Commit: commit, ResolvedAt: time.Now(), Authority: authority}); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// putFiles brings a batch of files into s and describes them in entries.
func putFiles(ctx context.Context, s *store.Store, repo fetcher.Repo, files []modelFile, entries []fetcher.File, progress func(int64)) error {
	ingests := make([]*store.Ingest, len(files))
	defer func() {
		for _, in := range ingests {
			if in != nil {
				_ = in.Close() // after Commit there is nothing left to lose
			}
		}
	}()
	g, working := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i, f := range files {
		g.Go(func() (err error) {
			if entries[i], err = f.entry(working); err != nil || s.HasBlob(entries[i].Digest) {
				return err
			}
			if ingests[i], err = s.Ingest(store.Origin{Repo: repo}, entries[i]); err != nil {
				return err
			}
			return fill(working, ingests[i], f, progress)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.Commit(ctx, slices.DeleteFunc(slices.Clone(ingests), func(in *store.Ingest) bool { return in == nil }))
}

func (f modelFile) entry(ctx context.Context) (fetcher.File, error) {
	alg := fetcher.GitBlobSHA1
	if f.lfs {
		alg = fetcher.SHA256
	}
	h := fetcher.NewHasher(alg, f.size)
	if _, err := io.Copy(h, untilEnd(ctx, f.open())); err != nil {
		return fetcher.File{}, err
	}
	digest, err := h.Digest()
	if err != nil {
		return fetcher.File{}, err
	}
	path, err := fetcher.ParsePath(f.path)
	return fetcher.File{Path: path, Size: f.size, Digest: digest}, err
}

func fill(ctx context.Context, in *store.Ingest, f modelFile, progress func(int64)) error {
	content := untilEnd(ctx, f.open())
	for _, p := range in.Missing() { // all of them, in order: the store is new
		if err := in.WritePiece(p, io.LimitReader(content, p.Size)); err != nil {
			return err
		}
		progress(p.Size)
	}
	return in.Verify()
}

// untilEnd makes reading r end with ctx.
func untilEnd(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
