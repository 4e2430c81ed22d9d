package mount

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sharedMount makes a mount that hands mounts on, as / does on most machines, and
// reports whether it still does.
func sharedMount(t *testing.T) (still func() bool) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		text, err := os.ReadFile(mountinfoPath)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, " "+dir+" ") {
				return strings.Contains(line, " shared:")
			}
		}
		t.Fatalf("no mount on %s", dir)
		return false
	}
}

func TestMakePrivateLeavesANamespaceThatIsNotItsOwnAlone(t *testing.T) {
	own, err := os.Readlink(namespacePath)
	if err != nil {
		t.Fatal(err)
	}
	for name, parents := range map[string]string{"started by hand": "", "started without a namespace of its own": own} {
		t.Run(name, func(t *testing.T) {
			still := sharedMount(t)
			t.Setenv(parentNamespace, parents)
			if err := MakePrivate(); !errors.Is(err, ErrNamespace) {
				t.Errorf("MakePrivate = %v", err)
			}
			if !still() {
				t.Error("it changed the namespace nevertheless")
			}
		})
	}
}

func TestMakePrivateIsForOneProcess(t *testing.T) {
	still := sharedMount(t)
	t.Setenv(parentNamespace, "mnt:[1]")
	if err := MakePrivate(); err != nil || still() {
		t.Errorf("in a namespace of its own: MakePrivate = %v, still shared: %v", err, still())
	}
	if value, set := os.LookupEnv(parentNamespace); set {
		t.Errorf("its children would take %q for their parent's namespace", value)
	}
}
