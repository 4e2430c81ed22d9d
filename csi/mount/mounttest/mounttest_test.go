package mounttest_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/csi/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// child runs this test binary again, without any test, as a fuzz test does its workers.
func child(t *testing.T, env ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^$")
	cmd.Env = append(cmd.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestAChildRunsInTheNamespaceThatItsParentMadePrivate(t *testing.T) {
	if out, err := child(t); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAChildOfAnotherNamespaceIsRefused(t *testing.T) {
	out, err := child(t, "BALLAST_MOUNTTEST_NAMESPACE=mnt:[1]")
	if err == nil || !strings.Contains(out, "mount namespace of its own") {
		t.Errorf("%v: %s", err, out)
	}
}
