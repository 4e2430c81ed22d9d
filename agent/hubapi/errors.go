package hubapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// The X-Error-Code values of the Hub that huggingface_hub tells apart
// (utils/_http.py, hf_raise_for_status), and one of our own.
const (
	codeRepo     = "RepoNotFound"
	codeGated    = "GatedRepo"
	codeRevision = "RevisionNotFound"
	codeEntry    = "EntryNotFound"
	// codeNotCached says that the file exists and is not on this node. It must
	// not be EntryNotFound, which clients remember (.no_exist).
	codeNotCached = "EntryNotCached"
)

// X-Error-Message values by which clients tell a bad token from a missing
// repository, both being 401 to an anonymous client.
const (
	msgBadToken  = "Invalid credentials in Authorization header"
	msgAnonymous = "Invalid username or password."
)

// msgStranger tells whoever is not let in what this is.
const msgStranger = "this is a node's own cache of Hugging Face repositories: it serves only the pods of its own node"

// answer is an error as a client sees it.
type answer struct {
	status  int
	code    string
	message string
}

// answerTo maps what a Library says to what the Hub would answer. The Hub does not
// tell anonymous clients whether a repository is missing or private: 401.
func answerTo(err error, anonymous bool) answer {
	status := func(known int) int {
		if anonymous {
			return http.StatusUnauthorized
		}
		return known
	}
	var bad *badName
	switch {
	case errors.As(err, &bad) && bad.code == "":
		return answer{http.StatusBadRequest, "", bad.Error()}
	case errors.As(err, &bad):
		return answer{http.StatusNotFound, bad.code, bad.Error()}
	case errors.Is(err, fetcher.ErrBadToken):
		return answer{http.StatusUnauthorized, "", msgBadToken}
	case errors.Is(err, fetcher.ErrInsecure):
		return answer{http.StatusForbidden, "", "this node sends no token to its Hub, which is at http://; whoever runs it can allow that with hub.tokensOverHTTP (--tokens-over-http)"}
	case errors.Is(err, fetcher.ErrForbidden):
		return answer{http.StatusForbidden, "", fetcher.ErrForbidden.Error()}
	case errors.Is(err, fetcher.ErrGated):
		return answer{status(http.StatusForbidden), codeGated, "Access to this repository is restricted."}
	case errors.Is(err, fetcher.ErrNotFound) && anonymous:
		return answer{http.StatusUnauthorized, codeRepo, msgAnonymous}
	case errors.Is(err, fetcher.ErrNotFound):
		return answer{http.StatusNotFound, codeRepo, "Repository not found"}
	case errors.Is(err, fetcher.ErrRevisionNotFound):
		return answer{http.StatusNotFound, codeRevision, fetcher.ErrRevisionNotFound.Error()}
	case errors.As(err, new(*fetcher.RateLimitedError)):
		return answer{http.StatusTooManyRequests, "", "the Hub asks this node to wait"}
	case fetcher.Unreachable(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return answer{http.StatusServiceUnavailable, "", "the Hub cannot be asked from this node now: try again"}
	case errors.Is(err, fetcher.ErrMalformed):
		return answer{http.StatusBadGateway, "", "what the Hub says of this repository cannot be used"}
	case passes(err):
		return answer{http.StatusServiceUnavailable, "", "this node cannot answer now: try again"}
	}
	return answer{http.StatusInternalServerError, "", "internal error: the node's log says more"}
}

// passes reports whether time mends what this node lacks, or a Repo that changed hands.
func passes(err error) bool {
	for _, short := range []error{store.ErrNoSpace, store.ErrReplaced, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, short) {
			return true
		}
	}
	return false
}

// fail answers with err and logs what only this server's owner can mend.
func (c *call) fail(err error) {
	a := answerTo(err, c.who.Token.IsZero())
	if a.status == http.StatusInternalServerError && c.r.Context().Err() == nil {
		c.log.Error("hub API request failed", zap.String("action", string(c.to.action)), zap.Stringer("repo", c.to.repo), zap.Error(err))
	}
	var limited *fetcher.RateLimitedError
	if errors.As(err, &limited) {
		c.w.Header().Set("Retry-After", strconv.Itoa(int(limited.RetryAfter/time.Second)+1))
	}
	c.refuse(a)
}

// refuse writes a as the Hub does: headers, and a JSON body for people.
func (c *call) refuse(a answer) {
	head := c.w.Header()
	if a.code != "" {
		head.Set("X-Error-Code", a.code)
	}
	head.Set("X-Error-Message", strings.Map(printable, a.message))
	if a.status == http.StatusUnauthorized {
		head.Set("WWW-Authenticate", `Bearer realm="Authentication required"`)
	}
	head.Set("Cache-Control", "no-store")
	c.json(a.status, map[string]string{"error": a.message})
}

// printable keeps a header's value to visible ASCII.
func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return '?'
	}
	return r
}

// json writes a whole answer, which is small.
func (c *call) json(status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // only possible for types that are not ours
		http.Error(c.w, err.Error(), http.StatusInternalServerError)
		return
	}
	c.within(int64(len(text)))
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(text) // the client is gone: nothing left to tell it
}
