package cluster

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// mountsStay notes what is mounted on the node, and where the CSI driver sees it, once
// no pod but Ballast's is left of what was before. The returned function waits until the
// same is mounted again: a mount that is left over fails the test, whosever it is.
func (w *world) mountsStay(t *testing.T) (still func()) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		pods, err := w.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.namespace!=ballast"})
		if err != nil || len(pods.Items) > 0 {
			return fmt.Sprintf("%d pods are still there: %v", len(pods.Items), err)
		}
		return ""
	})
	before := w.mounted(t)
	for at, n := range before { // what came before this scenario is not its own
		if strings.Contains(at, "kubernetes.io~csi") {
			t.Fatalf("%d times mounted, with no pod there: %s", n, at)
		}
	}
	return func() {
		t.Helper()
		eventually(t, 15*time.Second, func() string {
			var changed []string
			now := w.mounted(t)
			all := maps.Clone(before)
			maps.Copy(all, now)
			for _, at := range slices.Sorted(maps.Keys(all)) {
				if before[at] != now[at] {
					changed = append(changed, fmt.Sprintf("%d times mounted, was %d: %s", now[at], before[at], at))
				}
			}
			return strings.Join(changed, "\n")
		})
	}
}

// Names that are others each time a pod or a container is made.
var made = regexp.MustCompile(`[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|kube-api-access-[a-z0-9]{5}`)

// mounted counts mounts by where they are, in the machine's mount namespace and in that
// of the CSI driver. A container that was started again has as many as the one before.
func (w *world) mounted(t *testing.T) map[string]int {
	t.Helper()
	node, err := w.machine.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	pids := w.processes(t, csi)
	if len(pids) != 1 {
		t.Fatalf("processes of the csi: %v; want one", pids)
	}
	driver, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pids[0]))
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for who, mountinfo := range map[string]string{"node": node, "csi": string(driver)} {
		for line := range strings.Lines(mountinfo) {
			at := strings.Fields(line)[4]
			if strings.HasSuffix(at, "/pinned-namespaces/user") {
				continue // containerd's, until kubelet collects what is left of deleted pods
			}
			times[who+" "+made.ReplaceAllString(at, "*")]++
		}
	}
	return times
}
