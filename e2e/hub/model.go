package hub

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"

	"github.com/ballast-csi/ballast/fetcher"
)

// Model describes the files of a repository. The same Model is the same bytes for ever;
// those of another Seed differ in every file but the empty one.
type Model struct {
	Seed    uint64
	Weights []int // bytes of each *.safetensors at the root; such files are LFS
	Small   int   // number of JSON files of some hundred bytes, most in sub-folders
}

// LargeModel is one of 300 files, 101 MB together, the largest of more than five
// Pieces.
func LargeModel(seed uint64) Model {
	return Model{Seed: seed, Weights: []int{5*fetcher.PieceSize + 54321, fetcher.PieceSize + 1, 70001}, Small: 292}
}

// SmallModel is one of 12 files, 200 KB together.
func SmallModel(seed uint64) Model {
	return Model{Seed: seed, Weights: []int{150001}, Small: 6}
}

// Files returns content by path.
func (m Model) Files() map[string][]byte {
	files := map[string][]byte{
		gitAttributes: fmt.Appendf(nil, "# model %d\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n", m.Seed),
		"README.md":   fmt.Appendf(nil, "---\nlicense: apache-2.0\n---\n# Model %d\n", m.Seed),
		"config.json": fmt.Appendf(nil, `{"model_type": "tiny", "seed": %d}`, m.Seed),
		// The one that is the same in all models.
		"onnx/empty.txt": {},
		"onnx/model.bin": m.noise("onnx/model.bin", 50000),
	}
	for i, n := range m.Weights {
		path := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(m.Weights))
		files[path] = m.noise(path, n)
	}
	for i := range m.Small {
		path := fmt.Sprintf("shards/%02d/part-%03d.json", i%7, i)
		if i%16 == 0 {
			path = fmt.Sprintf("part-%03d.json", i)
		}
		files[path] = fmt.Appendf(nil, `{"part": %d, "noise": "%x"}`, i, m.noise(path, 100+i))
	}
	return files
}

// noise is n bytes that no other file, and no other Piece, has.
func (m Model) noise(path string, n int) []byte {
	random := rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d %s", m.Seed, path)))
	content := make([]byte, n)
	_, _ = random.Read(content) // never fails
	return content
}
