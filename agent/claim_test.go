package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
)

// claimIsNoProof has repo, which is public, list a file that it does not have, and serve
// HEADs that say the same. Whoever asks must be given repo's own bytes, which are others:
// so nothing.
func (w *world) claimIsNoProof(repo string, stolen fetcher.File) {
	w.t.Helper()
	path := stolen.Path.String()
	w.hub.AddRepo(repo, map[string][]byte{path: noise(99, int(stolen.Size))})
	w.hub.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.Contains(r.URL.Path, "/"+repo+"/tree/"):
			json.NewEncoder(rw).Encode([]map[string]any{{
				"type": "file", "path": path, "size": stolen.Size, "oid": strings.Repeat("b", 40),
				"lfs": map[string]any{"oid": stolen.Digest.Hex(), "size": stolen.Size, "pointerSize": 130},
			}})
			return true
		case r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/"+repo+"/resolve/"):
			rw.Header().Set("X-Linked-Etag", `"`+stolen.Digest.Hex()+`"`)
			rw.Header().Set("X-Linked-Size", fmt.Sprint(stolen.Size))
			rw.Header().Set("Location", "http://cdn.invalid/x")
			rw.WriteHeader(http.StatusFound)
			return true
		}
		return false
	})
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	m, err := w.Acquire(ctx, request("who-claims-"+repo, repo))
	var mismatch *fetcher.MismatchError
	if !errors.As(err, &mismatch) {
		w.t.Errorf("Acquire = %+v, %v; want the claimant's own bytes read and refused", m, err)
	}
	w.hub.Intercept(nil)
}
