package node

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// state is what a run should leave on this machine as it found it.
type state map[string][]string

// nodePaths are directories of a node that this machine may well have, or not.
var nodePaths = []string{"/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/lib/ballast", "/run/ballast", "/run/ballast-csi",
	"/run/containerd", "/run/netns", "/run/cni", "/etc/cni", "/var/log/pods", "/var/log/containers", "/usr/libexec/kubernetes", "/var/run/kubernetes", "/opt/containerd", "/opt/cni", "/root/.kube"}

// look takes in what is there now.
func look() (state, error) {
	s := state{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		// Without ids and propagation, which change by themselves.
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		s["mount"] = append(s["mount"], strings.Join(strings.Fields(before)[3:5], " ")+" "+after)
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		s["interface"] = append(s["interface"], l.Name)
	}
	for _, c := range []string{"ip rule", "ip -6 rule", "nft -s list ruleset", "iptables-save"} {
		words := strings.Fields(c)
		if _, err := exec.LookPath(words[0]); err != nil {
			continue // whoever has no such command cannot have made a rule with it
		}
		said, err := exec.Command(words[0], words[1:]...).Output()
		if err != nil {
			continue // this kernel has none of them
		}
		for line := range strings.Lines(string(said)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") { // comments, and counters of chains
				s[c] = append(s[c], strings.TrimSpace(line))
			}
		}
	}
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	for _, h := range all {
		groups, err := os.ReadDir(h.path)
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			if g.IsDir() && !strings.HasPrefix(g.Name(), prefix) { // another run's is its own concern
				s["cgroup"] = append(s["cgroup"], filepath.Join(h.path, g.Name()))
			}
		}
	}
	for _, path := range nodePaths {
		if _, err := os.Lstat(path); err == nil {
			s["path"] = append(s["path"], path)
		}
	}
	return s, nil
}

// compare returns what is left of the run in the directory work, and what others there
// is now that was not there before.
func (before state) compare(work string) (left, others []string, err error) {
	for range 30 { // a process that was killed is gone a moment later
		if left = belongings(work); len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	now, err := look()
	if err != nil {
		return nil, nil, err
	}
	for kind, things := range now {
		for _, thing := range things {
			if !slices.Contains(before[kind], thing) {
				others = append(others, kind+": "+thing)
			}
		}
	}
	return left, others, nil
}

// belongings finds the processes, cgroups, loop devices and files of a run. Whatever
// a run starts has the work directory in its environment, its arguments or its mounts.
func belongings(work string) []string {
	var found []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		files := []string{"environ", "cmdline", "mountinfo"}
		if p == fmt.Sprintf("/proc/%d", os.Getpid()) {
			files = []string{"mountinfo"} // what is mounted in sight of all
		}
		for _, file := range files {
			content, err := os.ReadFile(filepath.Join(p, file))
			if err == nil && bytes.Contains(content, []byte(work)) {
				cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
				found = append(found, fmt.Sprintf("process: %s (%s) %s", filepath.Base(p), file, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
				break
			}
		}
	}
	groups, err := cgroupDirs(filepath.Base(work))
	if err != nil {
		found = append(found, "cgroup: "+err.Error())
	}
	for _, g := range groups {
		found = append(found, "cgroup: "+g)
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if content, err := os.ReadFile(l); err == nil && bytes.Contains(content, []byte(work)) {
			found = append(found, "loop device: "+l)
		}
	}
	if _, err := os.Lstat(work); !errors.Is(err, os.ErrNotExist) {
		found = append(found, "directory: "+work)
	}
	return found
}
