package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Series of csi's metrics. kubelet asks for NodeGetInfo once as it registers a driver.
const (
	publishes             = "ballast_csi_publish_seconds_count"
	publishedMounted      = publishes + `{result="mounted"}`
	publishSecondsMounted = `ballast_csi_publish_seconds_sum{result="mounted"}`
	registrations         = `ballast_csi_operations_total{code="OK",method="NodeGetInfo"}`
)

// Series of the agent's metrics. A hit is a View that was there, or made of Blobs that
// were.
const (
	fetchedBytes = `ballast_fetched_bytes_total{source="hub"}`
	acquires     = "ballast_acquires_total"
	acquiredHit  = acquires + `{result="hit"}`
)

// csiCounts are the CSI driver's metrics, by series.
func (w *world) csiCounts(t *testing.T) map[string]float64 {
	t.Helper()
	socket := w.onDisk("/run/ballast-csi/http.sock")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("http://socket/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	count(counts, string(said))
	return counts
}

// agentCounts are the agents' metrics, those of all nodes together, by series.
func (w *world) agentCounts(t *testing.T) map[string]float64 {
	t.Helper()
	pods, err := w.client.CoreV1().Pods("ballast").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + agent})
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, p := range pods.Items {
		said, err := w.client.CoreV1().Pods(p.Namespace).ProxyGet("http", p.Name, "9808", "/metrics", nil).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		count(counts, string(said))
	}
	return counts
}

// count adds what a page of metrics says to counts.
func count(counts map[string]float64, said string) {
	for line := range strings.Lines(said) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if n, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err == nil {
				counts[line[:i]] += n
			}
		}
	}
}

// counted waits until a series of csi's is so much higher than it was.
func (w *world) counted(t *testing.T, was map[string]float64, series string, more int) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		if n := w.csiCounts(t)[series]; n < was[series]+float64(more) {
			return fmt.Sprintf("%s is %v, was %v", series, n, was[series])
		}
		return ""
	})
}

// onlyRose checks that of all series whose names begin so no other rose than one, and
// that by more.
func onlyRose(t *testing.T, before, after map[string]float64, begin, one string, more int) {
	t.Helper()
	if _, ok := after[one]; !ok {
		t.Errorf("there is no %s", one)
	}
	for series, n := range after {
		want := before[series]
		if series == one {
			want += float64(more)
		}
		if strings.HasPrefix(series, begin) && n != want {
			t.Errorf("%s rose from %v to %v; want %v", series, before[series], n, want)
		}
	}
}
