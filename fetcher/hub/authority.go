package hub

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// Resolve asks GET /api/{models|datasets}/{repo}/revision/{ref} for "sha" and "_id".
func (c *Client) Resolve(ctx context.Context, repo fetcher.Repo, ref fetcher.Ref, cred fetcher.Secret) (fetcher.Resolution, error) {
	q := request{
		what: resolving(repo, ref),
		url:  c.apiURL(repo, "revision", ref.String()), cred: cred, absent: errNoRevision,
	}
	var found fetcher.Resolution
	read := func(d *document) (err error) {
		found, err = readInfo(d)
		return err
	}
	budget := c.maxAnswer
	if _, err := c.askJSON(ctx, q, &budget, read); err != nil {
		return fetcher.Resolution{}, err
	}
	if pinned, ok := ref.Commit(); ok && pinned != found.Commit {
		return fetcher.Resolution{}, malformed(q, fmt.Errorf("the answer is for commit %s", found.Commit))
	}
	return found, nil
}

// resolving is what is being done, in errors of Resolve and Prove.
func resolving(repo fetcher.Repo, ref fetcher.Ref) string {
	return fmt.Sprintf("resolve %s at %s", repo, ref)
}

// repoID is what "_id" may be: the Hub's are 24 hex digits.
var repoID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,64}$`)

// readInfo finds "sha" and "_id" in a repository's info. All else, which lists every
// file, is read over, and what stands behind the later of the two is not read.
func readInfo(d *document) (info fetcher.Resolution, err error) {
	if err := d.open('{'); err != nil {
		return info, err
	}
	said := map[string]string{}
	for len(said) < 2 && d.more() {
		key, err := d.token()
		if err != nil {
			return info, err
		}
		name, _ := key.(string)
		if name != "sha" && name != "_id" {
			if err := d.skip(); err != nil {
				return info, err
			}
			continue
		}
		if _, twice := said[name]; twice {
			return info, notHubs("it has %s twice", name)
		}
		if said[name], err = d.text(); err != nil {
			return info, err
		}
	}
	if len(said) < 2 {
		if _, err := d.token(); err != nil { // the end
			return info, err
		}
	}
	sha, ok := said["sha"]
	if !ok {
		return info, notHubs("it has no sha")
	}
	if info.Commit, err = fetcher.ParseCommit(sha); err != nil {
		return info, notHubs("sha: %w", err)
	}
	if repoID.MatchString(said["_id"]) {
		info.RepoID = said["_id"]
	}
	return info, nil
}

// Prove asks HEAD /{repo}/resolve/{ref}/{path}, which gated repositories refuse to
// whom they refuse content; 200 and a redirect to another host are proof. With a
// zero path it asks GET /api/{models|datasets}/{repo}/auth-check. Its errors are worded
// as Resolve's, without the path: who is turned away shall not learn from them a name out
// of a listing, nor that somebody else has made this node hold one.
func (c *Client) Prove(ctx context.Context, repo fetcher.Repo, ref fetcher.Ref, path fetcher.Path, cred fetcher.Secret) (fetcher.Proof, error) {
	asking, cancel := context.WithTimeoutCause(ctx, askTimeout, &fetcher.UnreachableError{Err: fmt.Errorf("no answer in %s", askTimeout)})
	defer cancel()
	if path.IsZero() {
		return fetcher.Proof{}, c.authCheck(asking, repo, ref, cred)
	}
	q := request{
		what:   resolving(repo, ref),
		method: http.MethodHead, url: c.resolveURL(repo, ref, path), cred: cred, absent: errNoFile,
	}
	a, err := c.send(asking, q)
	if err != nil {
		return fetcher.Proof{}, err
	}
	defer a.Body.Close()
	proof, told := readProof(a)
	switch {
	case a.StatusCode != http.StatusOK && !isRedirect(a.StatusCode):
		return fetcher.Proof{}, c.statusError(asking, q, a)
	case !told: // a login page, a captive portal
		return fetcher.Proof{}, unusable(q, fmt.Errorf("%s without the commit that the Hub would tell", statusText(a.StatusCode)))
	}
	if pinned, ok := ref.Commit(); ok && !proof.Commit.IsZero() && proof.Commit != pinned {
		return fetcher.Proof{}, malformed(q, fmt.Errorf("the answer is for commit %s", proof.Commit))
	}
	return proof, nil
}

// authCheck takes no page for an answer, nor a 404 without a code for a verdict: a
// Hub may not have this call.
func (c *Client) authCheck(ctx context.Context, repo fetcher.Repo, ref fetcher.Ref, cred fetcher.Secret) error {
	q := request{
		what:   resolving(repo, ref),
		method: http.MethodGet, url: c.apiURL(repo, "auth-check"), cred: cred,
	}
	a, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer discard(a.Body)
	if a.StatusCode != http.StatusOK {
		return c.statusError(ctx, q, a)
	}
	if kind, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type")); kind == "text/html" {
		return unusable(q, errors.New("a page came instead of an answer"))
	}
	return nil
}

// readProof reads what the headers tell; told is false if they are not those that
// the Hub sends with a file. The Digest is told only by a header that can be nothing
// else: X-Linked-Etag with a sha256, which is of the content of an LFS file; or the
// ETag of an answer that is the file itself, a file kept in git, whose 40 digits are
// then its git object name. The ETag of a redirect is not the file's, and what an
// ETag without X-Linked-Etag says of an LFS file is up to who serves it.
func readProof(a *answer) (proof fetcher.Proof, told bool) {
	linked := opaque(a.header("X-Linked-Etag"))
	if d, err := fetcher.NewDigest(fetcher.SHA256, linked); err == nil {
		proof.Digest = d
	}
	commit, err := fetcher.ParseCommit(a.header("X-Repo-Commit"))
	if err != nil {
		return proof, !proof.Digest.IsZero()
	}
	proof.Commit = commit
	inGit := linked == "" && a.header("X-Linked-Size") == "" && a.header("X-Xet-Hash") == ""
	if a.StatusCode == http.StatusOK && a.home && inGit {
		if d, err := fetcher.NewDigest(fetcher.GitBlobSHA1, opaque(a.Header.Get("ETag"))); err == nil {
			proof.Digest = d
		}
	}
	return proof, true
}

// opaque returns an ETag's text as huggingface_hub reads it: W/ and quotes dropped.
func opaque(etag string) string { return strings.Trim(strings.TrimPrefix(etag, "W/"), `"`) }
