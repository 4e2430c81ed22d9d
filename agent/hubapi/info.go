package hubapi

import (
	"bufio"
	"encoding/json"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// info is a repository as ModelInfo and DatasetInfo of huggingface_hub read it.
// A cache does not know when a commit was made: there is no lastModified. Its last field,
// siblings, is written by (*call).info.
type info struct {
	ID       string   `json:"id"`
	ModelID  string   `json:"modelId,omitempty"`
	Author   string   `json:"author,omitempty"`
	SHA      string   `json:"sha"`
	Private  bool     `json:"private"`
	Gated    bool     `json:"gated"`
	Disabled bool     `json:"disabled"`
	Tags     []string `json:"tags"`
	Likes    int      `json:"likes"`
	Down     int      `json:"downloads"`
	Used     int64    `json:"usedStorage"`
}

// sibling is a file of an info; all but its name only on request (blobs=true).
type sibling struct {
	Name   string      `json:"rfilename"`
	Size   *int64      `json:"size,omitempty"`
	BlobID string      `json:"blobId,omitempty"`
	LFS    *siblingLFS `json:"lfs,omitempty"`
}

type siblingLFS struct {
	SHA256      string `json:"sha256"`
	Size        int64  `json:"size"`
	PointerSize int    `json:"pointerSize"`
}

// siblingBytes is what a sibling's text has, about, to reckon how long an answer takes.
const siblingBytes = 512

// info answers with the repository and all its files: with a million of them a text
// so long that it is written as it is made.
func (c *call) info(m *fetcher.Manifest) {
	head, err := json.Marshal(infoOf(m))
	if err != nil {
		c.fail(err)
		return
	}
	blobs := isTrue(c.r.URL.Query().Get("blobs"))
	c.within(int64(len(m.Files)) * siblingBytes)
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w := bufio.NewWriter(c.w) // keeps the first error: the client is gone, and Flush says so
	w.Write(head[:len(head)-1])
	w.WriteString(`,"siblings":[`)
	for i, f := range m.Files {
		if i > 0 {
			w.WriteByte(',')
		}
		line, err := json.Marshal(siblingOf(f, blobs))
		if err != nil {
			return // only possible for types that are not ours: what is cut short is no JSON
		}
		if _, err = w.Write(line); err != nil {
			return
		}
	}
	w.WriteString("]}")
	w.Flush()
}

func infoOf(m *fetcher.Manifest) info {
	repo := m.Revision.Repo
	author, _, owned := strings.Cut(repo.Name(), "/")
	if !owned {
		author = ""
	}
	out := info{ID: repo.Name(), Author: author, SHA: m.Revision.Commit.String(), Tags: []string{}, Used: m.Bytes()}
	if repo.Kind() == fetcher.Model {
		out.ModelID = repo.Name()
	}
	return out
}

func siblingOf(f fetcher.File, blobs bool) sibling {
	s := sibling{Name: f.Path.String()}
	if !blobs {
		return s
	}
	e := fileEntry(f)
	s.Size, s.BlobID = &f.Size, e.OID
	if e.LFS != nil {
		s.LFS = &siblingLFS{e.LFS.OID, e.LFS.Size, e.LFS.PointerSize}
	}
	return s
}
