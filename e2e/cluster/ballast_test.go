package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ballast-csi/ballast/e2e/pod/report"
)

// Ballast's own parts: subcommands, and the names of their containers.
const (
	agent = "agent"
	csi   = "csi"
)

// part returns the pod of a part of Ballast that kubelet runs now, or nil.
func (w *world) part(ctx context.Context, name string) (*corev1.Pod, error) {
	list, err := w.client.CoreV1().Pods("ballast").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + name})
	if err != nil {
		return nil, err
	}
	list.Items = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	switch len(list.Items) {
	case 0:
		return nil, nil
	case 1:
		return &list.Items[0], nil
	}
	return nil, fmt.Errorf("%d pods are the %s", len(list.Items), name)
}

// healthy waits until both parts of Ballast run and are ready, after they were ended
// in any way: as many of their processes run as should, none of them in was.
func (w *world) healthy(t *testing.T, was ...int) {
	t.Helper()
	for _, name := range []string{agent, csi} {
		eventually(t, 2*time.Minute, func() string {
			if pids := w.processes(t, name); len(pids) != 1 || slices.Contains(was, pids[0]) {
				return fmt.Sprintf("processes of the %s: %v", name, pids)
			}
			p, err := w.part(t.Context(), name)
			if err != nil || p == nil {
				return fmt.Sprintf("the %s has no pod: %v", name, err)
			}
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					return ""
				}
			}
			return "the " + name + " is not ready"
		})
	}
}

// kill kills parts of Ballast, as kill -9 does, and returns when kubelet has started
// each again, and how long that took.
func (w *world) kill(t *testing.T, parts ...string) time.Duration {
	t.Helper()
	at := time.Now()
	w.replaced(t, w.end(t, parts...))
	return time.Since(at)
}

// end kills parts of Ballast, as kill -9 does, and returns what their processes were.
func (w *world) end(t *testing.T, parts ...string) (was map[string]int) {
	t.Helper()
	was = map[string]int{}
	for _, name := range parts {
		pids := w.processes(t, name)
		if len(pids) != 1 {
			t.Fatalf("processes of the %s: %v; want one", name, pids)
		}
		was[name] = pids[0]
	}
	for _, pid := range was {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	return was
}

// replaced waits until kubelet has started each part of Ballast again.
func (w *world) replaced(t *testing.T, was map[string]int) {
	t.Helper()
	for name, old := range was {
		eventually(t, time.Minute, func() string {
			if now := w.processes(t, name); len(now) != 1 || now[0] == old {
				return fmt.Sprintf("processes of the %s: %v", name, now)
			}
			return ""
		})
	}
}

// withoutAgent takes the agent from the node, until back is called or the test ends.
// back returns when the agent is ready.
func (w *world) withoutAgent(t *testing.T) (back func()) {
	t.Helper()
	choose := func(ctx context.Context, value string) {
		t.Helper()
		patch := fmt.Sprintf(`{"spec": {"template": {"spec": {"nodeSelector": {"e2e": %s}}}}}`, value)
		if err := w.run(ctx, "-n", "ballast", "patch", "daemonset", "ballast-agent", "--type=merge", "-p", patch); err != nil {
			t.Fatal(err)
		}
	}
	restore := sync.OnceFunc(func() { choose(context.Background(), "null") })
	t.Cleanup(restore)
	choose(t.Context(), `"elsewhere"`)
	eventually(t, time.Minute, func() string {
		if pids := w.processes(t, agent); len(pids) > 0 {
			return fmt.Sprintf("processes of the agent: %v", pids)
		}
		return ""
	})
	return func() {
		t.Helper()
		restore()
		w.healthy(t)
	}
}

// rereads has the pod read its volume round after round.
func rereads(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"reread", modelDir} }

// readsOn waits until reader, a pod that rereads, has read its volume once more since
// now. It must have read the same in each round so far, in one life of its container.
func (w *world) readsOn(t *testing.T, reader *corev1.Pod) (rounds int) {
	t.Helper()
	now := time.Now()
	eventually(t, 30*time.Second, func() string {
		said, err := w.client.CoreV1().Pods(reader.Namespace).GetLogs(reader.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
		if err != nil {
			return err.Error()
		}
		var last report.Round
		for line := range strings.Lines(string(said)) {
			if err := json.Unmarshal([]byte(line), &last); err != nil || last.Error != "" || last.Files == 0 {
				t.Fatalf("%s does not read on: %s (%v)", reader.Name, line, err)
			}
		}
		if rounds = last.Round; last.Started.Before(now) {
			return fmt.Sprintf("the last round that %s has read started at %s", reader.Name, last.Started)
		}
		return ""
	})
	p, err := w.client.CoreV1().Pods(reader.Namespace).Get(t.Context(), reader.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.RestartCount != 0 || p.UID != reader.UID {
			t.Fatalf("%s was started again %d times", reader.Name, c.RestartCount)
		}
	}
	return rounds
}

// targetPath is where kubelet has a CSI volume mounted, in a line of mountinfo. No other
// driver is on the node.
var targetPath = regexp.MustCompile(` (/var/lib/kubelet/pods/[^/ ]+/volumes/kubernetes\.io~csi/[^/ ]+/mount) `)

// pinsAreMounts waits until what is pinned is what is mounted: no pin is missing, none
// is left over.
func (w *world) pinsAreMounts(t *testing.T, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func() string {
		mounts, err := w.machine.Mounts()
		if err != nil {
			t.Fatal(err)
		}
		var mounted []string
		for _, m := range targetPath.FindAllStringSubmatch(mounts, -1) {
			mounted = append(mounted, m[1])
		}
		slices.Sort(mounted)
		if pinned := slices.Sorted(maps.Keys(w.pinned(t))); !slices.Equal(pinned, mounted) {
			return fmt.Sprintf("pinned: %q\nmounted: %q", pinned, mounted)
		}
		return ""
	})
}

// pinned is the content of the pins on the disk, which has the time each was made, by
// target path.
func (w *world) pinned(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(w.onDisk(cacheDir + "/pins/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	pins := map[string]string{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // released just now
		}
		var pin struct {
			Record struct{ Volume struct{ Target string } }
		}
		if err := errors.Join(err, json.Unmarshal(content, &pin)); err != nil {
			t.Fatal(err)
		}
		pins[pin.Record.Volume.Target] = string(content)
	}
	return pins
}
