package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestDemoShowsARepositoryOfAnotherHub(t *testing.T) {
	h := hubtest.New(t)
	h.AddToken("hf_demo")
	h.AddRepo("org/model", map[string][]byte{
		"config.json":         []byte("{}"),
		"sub/empty":           nil,
		"weights.safetensors": bytes.Repeat([]byte("weights"), 100_000),
	})
	h.SetPrivate("org/model", "hf_demo")
	w := inWorld(t, demoConfig{
		size: smallModel(), repo: "org/model", revision: "main", endpoint: h.URL(), token: fetcher.NewSecret("hf_demo"), tokensOverHTTP: true,
	})
	var text strings.Builder
	if err := runSteps(t.Context(), w, &text); err != nil {
		t.Errorf("runSteps: %v", err)
	}
	for _, want := range []string{
		"what needs a Hub of the demo's own is left out", "700 kB fetched", "✓ the Hub lists its files            3 files, 700 kB at commit", "✓ all match, and none is extra       3 files",
		"0 B fetched", "2 pods saw 1.4 MB; 700 kB came from the Hub.",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("it did not print %q", want)
		}
	}
	if strings.Contains(text.String(), "✗") || strings.Contains(text.String(), "hf_demo") || t.Failed() {
		t.Errorf("it printed:\n%s", text.String())
	}
	log, err := os.ReadFile(w.path(demoLog))
	if err != nil || len(log) == 0 || bytes.Contains(log, []byte("hf_demo")) {
		t.Errorf("its log is missing, or holds the token (%v)", err)
	}
}

// What the agent recorded is no witness of what it mounted: the demo asks the Hub.
func TestDemoComparesWhatPodsSeeWithWhatTheHubItselfLists(t *testing.T) {
	h := hubtest.New(t)
	h.AddRepo("org/model", map[string][]byte{"config.json": []byte("{}")})
	var listings atomic.Int32
	h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/tree/") || listings.Add(1) == 1 {
			return false
		}
		fmt.Fprintf(w, `[{"type": "file", "oid": %q, "size": 2, "path": "config.json"}]`, strings.Repeat("a", 40))
		return true
	})
	w := inWorld(t, demoConfig{size: smallModel(), repo: "org/model", revision: "main", endpoint: h.URL()})
	var text strings.Builder
	if err := runSteps(t.Context(), w, &text); err == nil {
		t.Error("runSteps succeeded")
	}
	if !strings.Contains(text.String(), "✗ all match") || !strings.Contains(text.String(), strings.Repeat("a", 40)) {
		t.Errorf("it printed:\n%s", text.String())
	}
}

func TestDemoSaysWhyARepositoryCannotBeHad(t *testing.T) {
	h := hubtest.New(t)
	w := inWorld(t, demoConfig{size: smallModel(), repo: "org/none", revision: "main", endpoint: h.URL()})
	var text strings.Builder
	if err := runSteps(t.Context(), w, &text); err == nil {
		t.Error("runSteps succeeded")
	}
	if got := strings.Join(strings.Fields(text.String()), " "); !strings.Contains(got, "✗ its volume is mounted") || !strings.Contains(got, "org/none") ||
		!strings.Contains(got, "private or does not exist") {
		t.Errorf("it printed:\n%s", text.String())
	}
}
