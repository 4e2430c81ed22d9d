package csi

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/zap/zapcore"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

func TestEachFailedCallIsLoggedOnceAndPollsQuietly(t *testing.T) {
	b := newBench(t)
	client, stop := b.run(t)
	target := b.target(t, "pod-1")
	_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
	must(t, err)
	_, err = client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	b.agent.set(func(a *fakeAgent) { a.acquire = answering(refusing(agentpb.Refused_DENIED, "accept the conditions")) })
	_, _ = client.NodePublishVolume(t.Context(), publishRequest("vol", target))
	unlock, _ := b.node.targets.tryLock(target)
	_, _ = client.NodePublishVolume(t.Context(), publishRequest("vol", target))
	unlock()
	_, _ = client.NodeExpandVolume(t.Context(), &spec.NodeExpandVolumeRequest{})
	must(t, stop())

	failed := b.logs.FilterMessage("CSI call failed").All()
	levels := map[string]zapcore.Level{}
	for _, entry := range failed {
		fields := entry.ContextMap()
		levels[fields["method"].(string)+" "+fields["code"].(string)] = entry.Level
		if fields["code"] == "PermissionDenied" && (fields[keyVolume] != "vol" || fields[keyTarget] != target ||
			!strings.Contains(fields["error"].(string), "accept the conditions")) {
			t.Errorf("fields %v", fields)
		}
	}
	if len(failed) != 3 || levels["NodePublishVolume PermissionDenied"] != zapcore.WarnLevel ||
		levels["NodePublishVolume Aborted"] != zapcore.DebugLevel || levels["NodeExpandVolume Unimplemented"] != zapcore.DebugLevel {
		t.Errorf("%d entries: %v", len(failed), levels)
	}
	for _, entry := range b.logs.All() {
		text, err := json.Marshal(entry.ContextMap())
		if err != nil || strings.Contains(entry.Message+string(text), testToken) {
			t.Errorf("log entry with the token, or unreadable: %s %s %v", entry.Message, text, err)
		}
	}
}

func TestCallsAreCounted(t *testing.T) {
	b := newBench(t)
	client, stop := b.run(t)
	target := b.target(t, "pod-1")
	for range 2 {
		_, err := client.NodePublishVolume(t.Context(), publishRequest("vol", target))
		must(t, err)
	}
	b.agent.set(func(a *fakeAgent) { a.away = true })
	_, err := client.NodeUnpublishVolume(t.Context(), unpublishRequest("vol", target))
	must(t, err)
	b.agent.set(func(a *fakeAgent) { a.away = false })
	r := publishRequest("vol", target)
	r.VolumeContext["repo"] = ""
	_, _ = client.NodePublishVolume(t.Context(), r)
	must(t, stop())

	for label, want := range map[[2]string]float64{
		{"NodePublishVolume", "OK"}: 2, {"NodePublishVolume", "InvalidArgument"}: 1, {"NodeUnpublishVolume", "OK"}: 1,
	} {
		if got := testutil.ToFloat64(b.metrics.operations.WithLabelValues(label[0], label[1])); got != want {
			t.Errorf("operations%v = %v, want %v", label, got, want)
		}
	}
	text, err := testutil.CollectAndFormat(b.metrics.publish, expfmt.TypeTextPlain, "ballast_csi_publish_seconds")
	must(t, err)
	for _, want := range []string{`_count{result="ok"} 1`, `_count{result="mounted"} 1`, `_count{result="bad_request"} 1`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if problems, err := testutil.GatherAndLint(b.reg); err != nil || len(problems) != 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if got := testutil.ToFloat64(b.metrics.agentErrors); got < 1 {
		t.Errorf("agent errors: %v", got)
	}
}
