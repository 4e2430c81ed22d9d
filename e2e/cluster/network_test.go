package cluster

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestDriverNeverHasANetworkSocket: not while it publishes, waits for a download and
// takes the volume away again; and its network has never carried a packet that it sent.
func TestDriverNeverHasANetworkSocket(t *testing.T) {
	w := onNode(t)
	pid := w.processOf(t, csi)
	m := w.publish(t, hub.SmallModel)
	w.hub.Throttle(m.repo, m.bytes()) // a second
	ns := w.namespace(t)
	looks, stop, done := 0, make(chan struct{}), make(chan struct{})
	var strange []string
	go func() {
		defer close(done)
		for {
			found := networkSockets(pid)
			looks, strange = looks+1, append(strange, found...)
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	volume := inline(m.repo)
	p := w.create(t, w.pod(ns, "looked-at", &volume))
	w.running(t, p, time.Minute)
	w.remove(t, p, 30*time.Second)
	w.noTraces(t, p, 10*time.Second)
	close(stop)
	<-done
	if len(strange) > 0 {
		t.Errorf("the driver had %q", slices.Compact(strange))
	}
	// Since the pod began, the probes' processes among them.
	for counter, n := range sent(t, pid) {
		if n != "0" {
			t.Errorf("%s of the driver's network is %s", counter, n)
		}
	}
	if n := sent(t, w.processOf(t, agent))["Tcp:ActiveOpens"]; n == "0" || n == "" {
		t.Errorf("the agent, which does open connections, has opened %q: the counter counts nothing", n)
	}
	if len(networkSockets(w.processOf(t, agent))) == 0 {
		t.Error("the agent, which listens on a port, has no socket: a network socket is not told from others")
	}
	t.Logf("looked at %d times", looks)
}

// networkSockets are those of the process' sockets that are not unix sockets: each is
// borrowed for a moment, and asked.
func networkSockets(pid int) (found []string) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return []string{err.Error()}
	}
	defer unix.Close(process)
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return []string{err.Error()}
	}
	for _, entry := range fds {
		if to, err := os.Readlink(dir + entry.Name()); err != nil || !strings.HasPrefix(to, "socket:") {
			continue // closed just now, or a file
		}
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			return []string{err.Error()}
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if errors.Is(err, unix.EBADF) {
			continue // closed just now
		}
		if err != nil {
			return []string{err.Error()}
		}
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		unix.Close(fd)
		if domain != unix.AF_UNIX && !errors.Is(err, unix.ENOTSOCK) { // its number was given to a file
			found = append(found, fmt.Sprintf("a socket of domain %d (%v)", domain, err))
		}
	}
	return found
}

// sent are counters of what a process' network has ever sent, by protocol and name
// (/proc/PID/net/snmp, for IPv4 and IPv6 connections alike, and snmp6).
func sent(t *testing.T, pid int) map[string]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/net/", pid)
	snmp, err := os.ReadFile(dir + "snmp")
	if err != nil {
		t.Fatal(err)
	}
	snmp6, err := os.ReadFile(dir + "snmp6")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	lines := strings.Split(string(snmp), "\n")
	for i := 0; i+1 < len(lines); i += 2 { // names, and then values
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := range names {
			all[names[0]+names[j]] = values[j]
		}
	}
	for line := range strings.Lines(string(snmp6)) {
		if f := strings.Fields(line); len(f) == 2 {
			all[f[0]] = f[1]
		}
	}
	counters := map[string]string{}
	for _, name := range []string{"Tcp:ActiveOpens", "Tcp:PassiveOpens", "Tcp:OutSegs", "Udp:OutDatagrams", "UdpLite:OutDatagrams", "Udp6OutDatagrams", "UdpLite6OutDatagrams"} {
		counters[name] = all[name]
	}
	return counters
}
