package hub

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// Resolve asks GET /api/{models|datasets}/{repo}/revision/{ref} for "sha".
func (c *Client) Resolve(ctx context.Context, repo fetcher.Repo, ref fetcher.Ref, cred fetcher.Secret) (fetcher.Commit, error) {
	q := request{
		what: fmt.Sprintf("resolve %s at %s", repo, ref),
		url:  c.apiURL(repo, "revision", ref.String()), cred: cred,
	}
	var info struct {
		SHA string `json:"sha"`
	}
	budget := c.maxAnswer
	if _, err := c.askJSON(ctx, q, &budget, &info); err != nil {
		return fetcher.Commit{}, err
	}
	commit, err := fetcher.ParseCommit(info.SHA)
	if pinned, ok := ref.Commit(); err == nil && ok && pinned != commit {
		err = fmt.Errorf("the answer is for commit %s", commit)
	}
	if err != nil {
		return fetcher.Commit{}, malformed(q, err)
	}
	return commit, nil
}

// Prove asks HEAD /{repo}/resolve/{ref}/{path}, which gated repositories refuse to
// whom they refuse content; 200 and a redirect to another host are proof. With a
// zero path it asks GET /api/{models|datasets}/{repo}/auth-check.
func (c *Client) Prove(ctx context.Context, repo fetcher.Repo, ref fetcher.Ref, path fetcher.Path, cred fetcher.Secret) (fetcher.Proof, error) {
	asking, cancel := context.WithTimeoutCause(ctx, askTimeout, &fetcher.UnreachableError{Err: fmt.Errorf("no answer in %s", askTimeout)})
	defer cancel()
	if path.IsZero() {
		return fetcher.Proof{}, c.authCheck(asking, repo, cred)
	}
	q := request{
		what:   fmt.Sprintf("prove access to %s of %s at %s", path, repo, ref),
		method: http.MethodHead, url: c.resolveURL(repo, ref, path), cred: cred,
	}
	a, err := c.send(asking, q)
	if err != nil {
		return fetcher.Proof{}, err
	}
	defer a.Body.Close()
	proof, told := readProof(a)
	switch {
	case a.StatusCode != http.StatusOK && !isRedirect(a.StatusCode):
		return fetcher.Proof{}, c.statusError(q, a)
	case !told: // a login page, a captive portal
		return fetcher.Proof{}, malformed(q, fmt.Errorf("%s without a commit or an ETag", statusText(a.StatusCode)))
	}
	if pinned, ok := ref.Commit(); ok && !proof.Commit.IsZero() && proof.Commit != pinned {
		return fetcher.Proof{}, malformed(q, fmt.Errorf("the answer is for commit %s", proof.Commit))
	}
	return proof, nil
}

func (c *Client) authCheck(ctx context.Context, repo fetcher.Repo, cred fetcher.Secret) error {
	q := request{
		what:   fmt.Sprintf("prove access to %s", repo),
		method: http.MethodGet, url: c.apiURL(repo, "auth-check"), cred: cred,
	}
	a, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer discard(a.Body)
	if a.StatusCode != http.StatusOK {
		return c.statusError(q, a)
	}
	return nil
}

// readProof reads what the headers tell; told is false if they are not those that
// the Hub sends with a file. The ETag of a redirect is not the file's.
func readProof(a *answer) (proof fetcher.Proof, told bool) {
	commit, err := fetcher.ParseCommit(a.header("X-Repo-Commit"))
	if err == nil {
		proof.Commit = commit
	}
	etag := a.header("X-Linked-Etag")
	if etag == "" && a.StatusCode == http.StatusOK {
		etag = a.Header.Get("ETag")
	}
	proof.Digest = etagDigest(etag)
	return proof, err == nil || !proof.Digest.IsZero()
}

// etagDigest reads an ETag as huggingface_hub does: W/ and quotes dropped, 64 hex
// digits are a sha256 and 40 a git object name. Anything else is zero.
func etagDigest(etag string) fetcher.Digest {
	hex := strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
	alg := fetcher.GitBlobSHA1
	if len(hex) == 64 {
		alg = fetcher.SHA256
	}
	d, err := fetcher.NewDigest(alg, hex)
	if err != nil {
		return fetcher.Digest{}
	}
	return d
}
