package cluster

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What Ballast's processes are is read from inside their pods, by way of /proc (proc(5)):
// the image has no shell.

const agentUID = 2000000000

// TestAgentIsAPlainUserThatSeesItsDirectoriesAlone, as the kernel has it.
func TestAgentIsAPlainUserThatSeesItsDirectoriesAlone(t *testing.T) {
	w := onNode(t)
	pid := w.processOf(t, agent)
	status := procStatus(t, pid)
	uid := fmt.Sprintf("%d", agentUID)
	for key, want := range map[string]string{
		"Uid": strings.Join([]string{uid, uid, uid, uid}, "\t"), "Gid": strings.Join([]string{uid, uid, uid, uid}, "\t"),
		"Groups": uid, // its own again, as containerd has it
		"CapInh": noCapability, "CapPrm": noCapability, "CapEff": noCapability, "CapBnd": noCapability, "CapAmb": noCapability,
		"NoNewPrivs": "1", "Seccomp": "2", // 2: a filter, of which RuntimeDefault is the only one asked for
	} {
		if got := status[key]; got != want {
			t.Errorf("%s: %q; want %q", key, got, want)
		}
	}
	w.ownNamespaces(t, pid)
	shown := procMounts(t, pid)
	for at, want := range map[string]string{
		"/": "ro", cacheDir: "rw", "/run/ballast": "rw", "/run/ballast-csi": "ro", tokenDir: "ro", "/sys": "ro",
		"/etc/ballast": "ro", "/etc/ballast/manifests": "ro", // what its operator says, if anything
	} {
		if got := shown[at]; got != want {
			t.Errorf("%s is mounted %q; want %q", at, got, want)
		}
	}
	writable := func(at string) bool { return shown[at] == "rw" && writableBy(t, pid, at, agentUID) }
	w.seesOfTheNode(t, pid, cacheDir, "/run/ballast", "/run/ballast-csi", "/etc/ballast", "/etc/ballast/manifests")
	got := slices.DeleteFunc(slices.Collect(maps.Keys(shown)), func(at string) bool { return !writable(at) })
	want := []string{
		cacheDir, "/run/ballast", // its own
		// Every container's, and of no use beyond it: memory of the pod's, and a file of 4 KiB
		// for the last words. /dev/null is shown in place of files that a container may not see.
		"/dev/mqueue", "/dev/shm", "/dev/termination-log",
	}
	if got = slices.DeleteFunc(got, func(at string) bool { return isNull(t, pid, at) }); !sameSet(got, want) {
		t.Errorf("the agent can write to %q; want %q", got, want)
	}
	t.Logf("the agent sees %d mounts, and can write to %q", len(shown), got)
}

// TestDriverHasNoTokenAndNoNamespaceOfTheNode: it is privileged, and that is all.
func TestDriverHasNoTokenAndNoNamespaceOfTheNode(t *testing.T) {
	w := onNode(t)
	pid := w.processOf(t, csi)
	w.ownNamespaces(t, pid)
	shown := procMounts(t, pid)
	const pods, plugin = "/var/lib/kubelet/pods", "/csi"
	for at, want := range map[string]string{"/": "ro", cacheDir: "ro", "/run/ballast": "ro", "/run/ballast-csi": "rw", pods: "rw", plugin: "rw", "/registration": "rw"} {
		if got := shown[at]; got != want {
			t.Errorf("%s is mounted %q; want %q", at, got, want)
		}
	}
	w.seesOfTheNode(t, pid, cacheDir, "/run/ballast", "/run/ballast-csi", pods, plugin, "/registration")
	for at := range shown {
		if strings.HasPrefix(at, "/var/run/secrets") || strings.HasPrefix(at, "/run/secrets") {
			t.Errorf("the driver's pod has %s", at)
		}
	}
	if token := fmt.Sprintf("/proc/%d/root%s", pid, tokenDir); exists(token) {
		t.Errorf("the driver has a token of the API server: %s", token)
	}
}

const (
	tokenDir     = "/var/run/secrets/kubernetes.io/serviceaccount"
	noCapability = "0000000000000000"
)

// processOf is the one process of a part of Ballast.
func (w *world) processOf(t *testing.T, part string) int {
	t.Helper()
	pids := w.processes(t, part)
	if len(pids) != 1 {
		t.Fatalf("processes of the %s: %v; want one", part, pids)
	}
	return pids[0]
}

// procStatus is /proc/PID/status.
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	status := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		status[key] = strings.TrimSpace(value)
	}
	return status
}

// procMounts is what a process sees mounted: rw or ro, by where.
func procMounts(t *testing.T, pid int) map[string]string {
	t.Helper()
	mountinfo, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for line := range strings.Lines(string(mountinfo)) {
		fields := strings.Fields(line)
		shown[fields[4]], _, _ = strings.Cut(fields[5], ",")
	}
	return shown
}

// ownNamespaces checks that a process shares no namespace with the node, nor with the
// other part of Ballast, but that of users: the manifests do not ask for one of its own.
func (w *world) ownNamespaces(t *testing.T, pid int) {
	t.Helper()
	others := []int{w.machine.PID()}
	for _, part := range []string{agent, csi} {
		if other := w.processOf(t, part); other != pid {
			others = append(others, other)
		}
	}
	for _, kind := range []string{"net", "pid", "ipc", "uts", "mnt"} {
		own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range others {
			if is, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", other, kind)); err != nil || is == own {
				t.Errorf("its namespace %s is that of process %d too: %v", own, other, err)
			}
		}
	}
}

// Mounts that kubelet and the container runtime make in every container, and of which
// none shows a directory of the node.
var everyContainers = regexp.MustCompile(`^/(proc|sys|dev)(/.*)?$|^/etc/(hosts|hostname|resolv\.conf)$|^` + tokenDir + `$|^/$`)

// seesOfTheNode checks that a process sees these directories and nothing else.
func (w *world) seesOfTheNode(t *testing.T, pid int, want ...string) {
	t.Helper()
	got := slices.DeleteFunc(slices.Collect(maps.Keys(procMounts(t, pid))), func(at string) bool {
		return everyContainers.MatchString(at) || strings.HasPrefix(at, "/var/lib/kubelet/pods/") // below one of want, and csi's alone
	})
	if !sameSet(got, want) {
		t.Errorf("it sees %q; want %q", got, want)
	}
}

// writableBy says whether the mode of what is mounted there lets a user write who owns
// no more than is his, and has no capability.
func writableBy(t *testing.T, pid int, at string, uid uint32) bool {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(fmt.Sprintf("/proc/%d/root%s", pid, at), &st); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	switch uid {
	case st.Uid:
		return st.Mode&0o200 != 0
	case st.Gid:
		return st.Mode&0o020 != 0
	}
	return st.Mode&0o002 != 0
}

func isNull(t *testing.T, pid int, at string) bool {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(fmt.Sprintf("/proc/%d/root%s", pid, at), &st); err != nil {
		t.Fatal(err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}
