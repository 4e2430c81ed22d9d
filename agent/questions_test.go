package agent_test

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// Whose name it is, what it holds, and whether one may have it: no Manifest is without the
// first, also of a commit, and of one that a Ref has moved to.
func TestWhatIsNotKnownTakesThreeQuestions(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefMaxAge = time.Nanosecond
	w.start()
	questions := func() (list []string) {
		for _, r := range w.hub.Requests() {
			if r.Kind == "api" || r.Method == http.MethodHead {
				list = append(list, r.Method+" "+r.Path)
			}
		}
		w.hub.ResetRequests()
		return list
	}
	api, big := "GET /api/models/org/name/", "/model-00002-of-00002.safetensors"
	first := w.hub.AddRepo("org/name", small(1)) // a file of many Pieces is resolved by a HEAD of its own
	w.must(request("cold", "org/name"))
	if got, want := questions(), []string{api + "revision/main", api + "tree/" + first, "HEAD /org/name/resolve/" + first + big}; !slices.Equal(got, want) {
		t.Errorf("cold: asked %q, want %q", got, want)
	}
	second := w.hub.AddRepo("org/name", small(2))
	w.must(request("moved", "org/name"))
	if got, want := questions(), []string{"HEAD /org/name/resolve/main" + big, api + "revision/" + second, api + "tree/" + second}; !slices.Equal(got, want) {
		t.Errorf("moved: asked %q, want %q", got, want)
	}
	third := w.hub.AddRepo("org/name", small(3))
	w.must(request("commit", "org/name", at(third)))
	if got, want := questions(), []string{api + "revision/" + third, api + "tree/" + third, "HEAD /org/name/resolve/" + third + big}; !slices.Equal(got, want) {
		t.Errorf("a commit: asked %q, want %q", got, want)
	}
	w.must(request("main again", "org/name"))
	questions()
	w.must(request("warm", "org/name"))
	if got, want := questions(), []string{"HEAD /org/name/resolve/main" + big}; !slices.Equal(got, want) {
		t.Errorf("warm: asked %q, want %q", got, want)
	}
}
