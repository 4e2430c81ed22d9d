package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withCapabilities runs prepare in a process that is root with these capabilities only.
func (p preparing) withCapabilities(keep []string) (string, error) {
	type result struct {
		out string
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for ever: the thread has lost what the child must not have
		for c := range uintptr(unix.CAP_LAST_CAP + 1) {
			if !slices.Contains(keep, capabilityNames[c]) {
				// EINVAL: a capability that this kernel does not have.
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
					done <- result{err: err}
					return
				}
			}
		}
		cmd := exec.Command("/proc/self/exe", p.command()...)
		out, err := cmd.CombinedOutput()
		done <- result{string(out), err}
	}()
	r := <-done
	return r.out, r.err
}

// capabilityNames are those that manifests may name here.
var capabilityNames = map[uintptr]string{unix.CAP_CHOWN: "CHOWN", unix.CAP_DAC_OVERRIDE: "DAC_OVERRIDE", unix.CAP_FOWNER: "FOWNER"}

// TestPrepareNeedsTheManifestsCapabilities: those that agent.yaml gives, all of them and
// no other.
func TestPrepareNeedsTheManifestsCapabilities(t *testing.T) {
	needsUsers(t)
	var given []string
	for _, c := range readManifests(t).agent.Spec.Template.Spec.InitContainers[0].SecurityContext.Capabilities.Add {
		given = append(given, string(c))
	}
	tasks := map[string]func(p preparing){ // each cannot be done without the capability
		"CHOWN": func(preparing) {},
		"DAC_OVERRIDE": func(p preparing) {
			must(t, os.Mkdir(p.cache, 0o755))
			must(t, os.Chown(p.cache, p.uid, p.uid))
		},
		"FOWNER": func(p preparing) {
			must(t, os.Mkdir(p.run, 0o700))
			must(t, os.Chown(p.run, p.uid, p.uid))
		},
	}
	for capability, before := range tasks {
		p := newPreparing(t)
		before(p)
		without := slices.DeleteFunc(slices.Clone(given), func(c string) bool { return c == capability })
		if out, err := p.withCapabilities(without); err == nil || !strings.Contains(out, "CAP_"+capability) {
			t.Errorf("without %s: error %v, and it wrote %q", capability, err, out)
		}
		if out, err := p.withCapabilities(given); err != nil {
			t.Errorf("with %v: %v: %s", given, err, out)
		}
		p.mustPrepare()
	}
}
