package hubcache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	// maxTree bounds trees/<commit>.json, in bytes: MaxFiles entries of the usual kind.
	maxTree = 256 << 20
	// maxTreeEntry bounds one value in it, in bytes.
	maxTreeEntry = 1 << 20
)

// errNoTree says that a file is not a tree of the kind that is known here: of another
// version, or corrupt. huggingface_hub does as if it were not there, and so do we.
var errNoTree = errors.New("not a tree of format_version 1")

func treeFile(c fetcher.Commit) string { return "trees/" + c.String() + ".json" }

// treeEntry is a file in a tree (huggingface_hub, _tree_cache.py).
type treeEntry struct {
	Size      *int64  `json:"size"` // bytes
	BlobID    *string `json:"blob_id"`
	LFSSHA256 string  `json:"lfs_sha256"`
	LFSSize   *int64  `json:"lfs_size"` // bytes
	XetHash   any     `json:"xet_hash"`
}

// parseTree reads {"files": {path: entry}, "format_version": 1}, entry by entry. What
// is no such thing is errNoTree; one that lists what no repository can hold, or more
// than maxFiles, is ErrMalformed.
func parseTree(r io.Reader, maxFiles int) ([]fetcher.File, error) {
	p := &treeParser{maxFiles: maxFiles}
	p.bounded = &bounded{r: r}
	p.dec = json.NewDecoder(p.bounded)
	err := p.parse()
	switch {
	case p.bounded.exceeded:
		return nil, fmt.Errorf("%w: a value in it is longer than %d bytes", fetcher.ErrMalformed, maxTreeEntry)
	case errors.Is(err, fetcher.ErrMalformed):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errNoTree, err)
	case p.version != "1" || !p.listed:
		return nil, errNoTree
	case p.bad != nil:
		return nil, fmt.Errorf("%w: %w", fetcher.ErrMalformed, p.bad)
	}
	return p.files, nil
}

type treeParser struct {
	maxFiles int
	bounded  *bounded
	dec      *json.Decoder
	version  string // of the format; "" as long as it is not known
	listed   bool   // there was a list of files
	files    []fetcher.File
	bad      error // the first entry that no repository can hold
}

func (p *treeParser) parse() error {
	if err := p.open(); err != nil {
		return err
	}
	for p.more() {
		key, err := p.key()
		if err != nil {
			return err
		}
		switch {
		case key == "files" && !p.listed:
			err = p.list()
		default:
			var value json.RawMessage
			value, err = p.value()
			if key == "format_version" {
				p.version = string(value)
			}
		}
		if err != nil {
			return err
		}
	}
	if _, err := p.token(); err != nil { // the end
		return err
	}
	if _, err := p.token(); err != io.EOF {
		return errors.New("something follows it")
	}
	return nil
}

// list reads the object of files. An entry that is bad is one only if the version, which
// comes after it, is ours.
func (p *treeParser) list() error {
	p.listed = true
	if err := p.open(); err != nil {
		return err
	}
	for n := 1; p.more(); n++ {
		if n > p.maxFiles {
			return fmt.Errorf("%w: it lists more than %d files", fetcher.ErrMalformed, p.maxFiles)
		}
		path, err := p.key()
		if err != nil {
			return err
		}
		value, err := p.value()
		if err != nil {
			return err
		}
		var e treeEntry
		if err := json.Unmarshal(value, &e); err != nil || e.Size == nil || e.BlobID == nil {
			return fmt.Errorf("the entry of %.300q is of another kind", path)
		}
		f, err := e.file(path)
		if err != nil && p.bad == nil {
			p.bad = err
		}
		p.files = append(p.files, f)
	}
	_, err := p.token()
	return err
}

func (p *treeParser) open() error {
	t, err := p.token()
	if err == nil && t != json.Delim('{') {
		err = errors.New("not an object")
	}
	return err
}

func (p *treeParser) key() (string, error) {
	t, err := p.token()
	key, ok := t.(string)
	if err == nil && !ok {
		err = errors.New("not a key")
	}
	return key, err
}

func (p *treeParser) token() (json.Token, error) {
	p.bounded.left = maxTreeEntry
	return p.dec.Token()
}

func (p *treeParser) more() bool {
	p.bounded.left = maxTreeEntry
	return p.dec.More()
}

func (p *treeParser) value() (raw json.RawMessage, err error) {
	p.bounded.left = maxTreeEntry
	return raw, p.dec.Decode(&raw)
}

var xetHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (e treeEntry) file(name string) (fetcher.File, error) {
	path, err := fetcher.ParsePath(name)
	if err != nil {
		return fetcher.File{}, err
	}
	f := fetcher.File{Path: path, Size: *e.Size, OID: *e.BlobID}
	if e.LFSSHA256 != "" {
		f.Digest, err = fetcher.NewDigest(fetcher.SHA256, e.LFSSHA256)
		if e.LFSSize != nil && *e.LFSSize != *e.Size {
			err = errors.Join(err, fmt.Errorf("size is %d bytes and %d in LFS", *e.Size, *e.LFSSize))
		}
	} else {
		f.Digest, err = fetcher.NewDigest(fetcher.GitBlobSHA1, *e.BlobID)
	}
	if err != nil {
		return fetcher.File{}, fmt.Errorf("%s: %w", path, err)
	}
	if hash, ok := e.XetHash.(string); ok && xetHash.MatchString(hash) { // asterisks for who might not read a gated repository
		f.XetHash = hash
	}
	return f, nil
}

// bounded ends a reader from which too much is read at once.
type bounded struct {
	r        io.Reader
	left     int64 // bytes
	exceeded bool
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.exceeded = true
		return 0, errors.New("too long")
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// shards returns the files that an index of a model names (weight_map of
// model.safetensors.index.json): none if it cannot be read as one.
func shards(r io.Reader) []string {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if json.NewDecoder(r).Decode(&index) != nil {
		return nil
	}
	var names []string
	for _, name := range index.WeightMap {
		if name != "" && !strings.HasPrefix(name, "/") {
			names = append(names, name)
		}
	}
	return names
}
