package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// gitAttributes says which files are LFS; every repository has one.
const gitAttributes = ".gitattributes"

// lfsType is the media type of git-lfs's batch API.
const lfsType = "application/vnd.git-lfs+json"

// Upload makes a commit on repo's main with exactly these files, and with the
// .gitattributes that is there if they have none; a repository that is not there is
// made. repo is "org/name" or "datasets/org/name". It goes the way of huggingface_hub
// (create_repo and create_commit): preupload tells which files are LFS, git-lfs's batch
// API takes those, and one commit names them all. So which are LFS is up to the
// .gitattributes before the commit.
func (h *Hub) Upload(ctx context.Context, repo string, files map[string][]byte) (commit string, err error) {
	name, err := fetcher.ParseRepo(repo)
	if err != nil {
		return "", fmt.Errorf("upload: %w", err)
	}
	u := &upload{ctx: ctx, hfd: h.hfd, repo: name.String(), files: files, paths: slices.Sorted(maps.Keys(files))}
	for _, step := range []func() error{u.create, u.preupload, u.sendLFS, u.commit} {
		if err := step(); err != nil {
			return "", fmt.Errorf("upload to %s: %w", repo, err)
		}
	}
	return u.made, nil
}

// upload is one Upload on its way.
type upload struct {
	ctx   context.Context
	hfd   *hfd
	repo  string
	files map[string][]byte
	paths []string          // of files, sorted
	lfs   map[string]string // path -> SHA-256 in hex, of the files that are LFS
	made  string            // the commit
}

// ask sends body to where (a path, or a URL that hfd gave), and decodes the answer.
func (u *upload) ask(method, where, contentType string, body io.Reader, answer any) error {
	if strings.HasPrefix(where, "/") {
		where = u.hfd.url.String() + where
	}
	req, err := http.NewRequestWithContext(u.ctx, method, where, body)
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Accept", contentType)
	}
	if err := u.hfd.do(req, answer); err != nil {
		return fmt.Errorf("%s %s: %w", method, req.URL.Path, err)
	}
	return nil
}

func (u *upload) askJSON(where, contentType string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	return u.ask(http.MethodPost, where, contentType, bytes.NewReader(body), answer)
}

func (u *upload) create() error {
	kind, full := "model", u.repo
	if rest, ok := strings.CutPrefix(u.repo, "datasets/"); ok {
		kind, full = "dataset", rest
	}
	organization, name, ok := strings.Cut(full, "/")
	if !ok {
		return fmt.Errorf("hfd has no repositories outside an organization")
	}
	return u.askJSON("/api/repos/create", "application/json", map[string]string{"type": kind, "organization": organization, "name": name}, nil)
}

// preupload asks which files are LFS.
func (u *upload) preupload() error {
	type file struct {
		Path       string `json:"path"`
		Size       int    `json:"size,omitempty"`
		Sample     []byte `json:"sample,omitempty"` // base64
		UploadMode string `json:"uploadMode,omitempty"`
	}
	var question, answer struct {
		Files []file `json:"files"`
	}
	for _, path := range u.paths {
		content := u.files[path]
		question.Files = append(question.Files, file{Path: path, Size: len(content), Sample: content[:min(len(content), 512)]})
	}
	if err := u.askJSON(apiPath(u.repo)+"/preupload/main", "application/json", question, &answer); err != nil {
		return err
	}
	u.lfs = map[string]string{}
	for _, f := range answer.Files {
		if content := u.files[f.Path]; f.UploadMode == "lfs" && len(content) > 0 { // an empty file never is
			sum := sha256.Sum256(content)
			u.lfs[f.Path] = hex.EncodeToString(sum[:])
		}
	}
	return nil
}

// sendLFS sends the LFS files that hfd does not have.
func (u *upload) sendLFS() error {
	type object struct {
		OID     string `json:"oid"`
		Size    int    `json:"size"`
		Actions map[string]struct {
			Href   string            `json:"href"`
			Header map[string]string `json:"header"`
		} `json:"actions,omitempty"`
	}
	type batch struct {
		Operation string   `json:"operation,omitempty"`
		Transfers []string `json:"transfers,omitempty"`
		HashAlgo  string   `json:"hash_algo,omitempty"`
		Objects   []object `json:"objects"`
	}
	if len(u.lfs) == 0 {
		return nil
	}
	content := map[string][]byte{}
	question, answer := batch{Operation: "upload", Transfers: []string{"basic"}, HashAlgo: "sha256"}, batch{}
	for path, oid := range u.lfs {
		if _, twice := content[oid]; !twice {
			question.Objects = append(question.Objects, object{OID: oid, Size: len(u.files[path])})
		}
		content[oid] = u.files[path]
	}
	if err := u.askJSON("/"+u.repo+".git/info/lfs/objects/batch", lfsType, question, &answer); err != nil {
		return err
	}
	for _, o := range answer.Objects {
		if to, wanted := o.Actions["upload"]; wanted {
			if err := u.ask(http.MethodPut, to.Href, "", bytes.NewReader(content[o.OID]), nil); err != nil {
				return err
			}
		}
		if to, wanted := o.Actions["verify"]; wanted {
			if err := u.askJSON(to.Href, lfsType, object{OID: o.OID, Size: o.Size}, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// commit sends one line of JSON for each change.
func (u *upload) commit() error {
	gone, err := u.gone()
	if err != nil {
		return err
	}
	var body bytes.Buffer
	lines := json.NewEncoder(&body)
	line := func(key string, value map[string]any) {
		// A buffer takes everything, and nothing here is without a JSON form.
		_ = lines.Encode(map[string]any{"key": key, "value": value})
	}
	line("header", map[string]any{"summary": "Upload files", "description": ""})
	for _, path := range u.paths {
		if oid, ok := u.lfs[path]; ok {
			line("lfsFile", map[string]any{"path": path, "algo": "sha256", "oid": oid, "size": len(u.files[path])})
			continue
		}
		line("file", map[string]any{"path": path, "encoding": "base64", "content": base64.StdEncoding.EncodeToString(u.files[path])})
	}
	for _, path := range gone {
		line("deletedFile", map[string]any{"path": path})
	}
	var answer struct {
		CommitOID string `json:"commitOid"`
	}
	if err := u.ask(http.MethodPost, apiPath(u.repo)+"/commit/main", "application/x-ndjson", &body, &answer); err != nil {
		return err
	}
	u.made = answer.CommitOID
	return nil
}

// gone lists what main has and the new commit does not.
func (u *upload) gone() (paths []string, err error) {
	var tree []struct{ Type, Path string }
	if err := u.ask(http.MethodGet, apiPath(u.repo)+"/tree/main?recursive=true", "", nil, &tree); err != nil {
		return nil, err
	}
	for _, entry := range tree {
		if _, kept := u.files[entry.Path]; !kept && entry.Type == "file" && entry.Path != gitAttributes {
			paths = append(paths, entry.Path)
		}
	}
	return paths, nil
}
