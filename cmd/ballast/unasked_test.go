package main

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// A Hub that repeats what it was sent, the token too, when nobody asks.
func TestWhatIsSentUnaskedIsNotInTheAgentsLog(t *testing.T) {
	n := newNode(t)
	n.hub.AddRepo("org/name", map[string][]byte{"config.json": []byte("{}")})
	var first atomic.Bool
	n.hub.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if first.Swap(true) {
			return false
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\nyou said hf_sekrit")
		io.Copy(io.Discard, conn)
		conn.Close()
		return true
	})
	p := n.kubelet.newPod(1, "pod")
	if err := n.publish(p, "org/name"); err != nil {
		t.Fatal(err)
	}
	must(t, n.kubelet.unpublish(t.Context(), p))
	if !first.Load() || strings.Contains(n.agent.log.String(), "hf_sekrit") {
		t.Errorf("the agent wrote:\n%s", n.agent.log)
	}
}
