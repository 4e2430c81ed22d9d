package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

// run makes the cell's world, puts the request, and says what came of it and who asked.
// Only a request that is wanted to wait is given little time.
func (c cell) run(t *testing.T, want string) (got, asked string) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	const repo, big = "org/name", "model.safetensors"
	commit := w.hub.AddRepo(repo, map[string][]byte{big: noise(1, 50_000), "config.json": []byte("{}")})
	w.hub.AddToken("another")
	switch c.repo {
	case "private":
		w.hub.SetPrivate(repo, "owner", "good", "revoked")
	case "gated":
		w.hub.SetGated(repo, "owner", "good", "revoked")
	default:
		for _, token := range []string{"owner", "good", "revoked"} {
			w.hub.AddToken(token)
		}
	}
	own := map[string]string{"none": ""}[c.token]
	if c.token != "none" {
		own = c.token
	}
	req := request("cell", repo, token(own))
	if c.ref == "commit" {
		req.Ref = ref(commit)
	}
	var listed *fetcher.Manifest
	for _, who := range []string{"owner", "good", "revoked"} { // proved, each of them
		var err error
		listed, err = w.Listing(t.Context(), agent.Caller{Token: fetcher.NewSecret(who)}, req.Repo, ref("main"))
		must(t, err)
	}
	switch c.state {
	case "hit":
		w.must(request("owner", repo, token("owner")))
	case "in flight":
		release := w.hub.Hold(repo, big)
		defer release()
		stop, ended := w.acquireAside(request("owner", repo, token("owner"), at(commit)))
		defer func() { stop(); <-ended }()
		w.until("the large file is on its way, and the other here: so the owner asks no more", func() bool {
			return slices.ContainsFunc(w.hub.Requests(), func(r hubtest.Request) bool { return r.Kind == "cdn" }) &&
				!slices.ContainsFunc(listed.Files, func(f fetcher.File) bool { return f.Path.String() != big && !w.store.HasBlob(f.Digest) })
		})
		return c.join(w, req, want, own, release)
	}
	c.trouble(w)
	record := w.record(nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience(want))
	defer cancel()
	m, err := w.Acquire(ctx, req)
	return outcome(m, err), letters(record.take(), own)
}

// join puts the request while the owner's flight is held. A token that is to be revoked is
// so once the request waits.
func (c cell) join(w *world, req agent.Request, want, own string, release func()) (got, asked string) {
	if c.token != "revoked" {
		c.trouble(w)
	}
	record := w.record(nil)
	ctx, cancel := context.WithTimeout(w.t.Context(), patience(want))
	defer cancel()
	type result struct {
		m   agent.Mountable
		err error
	}
	ended := make(chan result, 1)
	go func() {
		m, err := w.Acquire(ctx, req)
		ended <- result{m, err}
	}()
	var r result
	w.until("it has joined, or ended", func() bool {
		select {
		case r = <-ended:
			return true
		default:
			return w.waiters() == 2
		}
	})
	// What the owner's flight asks for is not this request's.
	questions := letters(slices.DeleteFunc(record.take(), func(line string) bool {
		return strings.HasPrefix(line, "owner ") || isContent(line)
	}), own)
	if r.err != nil {
		return outcome(r.m, r.err), questions
	}
	if c.token == "revoked" {
		c.trouble(w)
	}
	if c.hub == "up" {
		release()
	}
	r = <-ended
	return outcome(r.m, r.err), questions
}

// trouble is what has happened when the request comes.
func (c cell) trouble(w *world) {
	w.hub.RevokeToken("revoked")
	switch c.hub {
	case "down":
		w.hub.Down(true)
	case "429":
		w.hub.RateLimit(1<<30, time.Minute)
	}
}

func patience(want string) time.Duration {
	if strings.HasPrefix(want, "waits") {
		return 300 * time.Millisecond
	}
	return 30 * time.Second
}

func outcome(m agent.Mountable, err error) string {
	var waiting *agent.WaitingError
	var refused *agent.RefusedError
	switch {
	case err == nil && m.Notice == "":
		return given
	case err == nil:
		return stale
	case errors.As(err, &waiting) && waiting.Total > 0:
		return shown
	case errors.As(err, &waiting) && strings.Contains(waiting.Progress, "rate limited"):
		return limited
	case errors.As(err, &waiting) && !strings.Contains(waiting.Progress, "%"):
		return blind
	case !errors.As(err, &refused):
	case errors.Is(err, fetcher.ErrNotFound), errors.Is(err, fetcher.ErrGated):
		return hidden
	case errors.Is(err, fetcher.ErrBadToken):
		return invalid
	}
	return fmt.Sprintf("%+v, %v", m, err)
}

// letters says who asked what.
func letters(lines []string, own string) string {
	seen := map[string]bool{}
	for _, line := range lines {
		who, _, _ := strings.Cut(line, " ")
		letter := map[string]string{"-": "A", own: "O"}[who]
		if letter == "" {
			letter = "[" + who + "]"
		}
		if isContent(line) {
			letter = strings.ToLower(letter)
		}
		seen[letter] = true
	}
	var list []string
	for letter := range seen {
		list = append(list, letter)
	}
	slices.Sort(list)
	return strings.Join(list, "")
}

// isContent reports whether a line of asked is for a file's content.
func isContent(line string) bool {
	return strings.Contains(line, " GET ") && !strings.Contains(line, " /api/")
}
