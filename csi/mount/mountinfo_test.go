package mount

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

const overlayLine = `36 25 0:45 / /pods/a/mount rw,nosuid,nodev,relatime shared:7 - overlay ballast:abc ro,lowerdir=/proc/self/fd/8:/proc/self/fd/9`

func TestParseMountinfo(t *testing.T) {
	for name, test := range map[string]struct {
		line string
		want Info
	}{
		"overlay, read-only superblock": {
			overlayLine,
			Info{Device: "0:45", Root: "/", Target: "/pods/a/mount", FSType: "overlay", Source: "ballast:abc", ReadOnly: true, SuperReadOnly: true},
		},
		"read-only bind of a writable superblock": {
			`40 25 8:1 /ballast/views/v/root /pods/b/mount ro,nosuid master:1 propagate_from:2 unbindable - ext4 /dev/sda1 rw,errors=continue`,
			Info{Device: "8:1", Root: "/ballast/views/v/root", Target: "/pods/b/mount", FSType: "ext4", Source: "/dev/sda1", ReadOnly: true},
		},
		"a directory that was removed": {
			`40 25 8:1 /views/v.partial/root//deleted /pods/b/mount ro - ext4 /dev/sda1 rw`,
			Info{Device: "8:1", Root: "/views/v.partial/root", Target: "/pods/b/mount", FSType: "ext4", Source: "/dev/sda1", ReadOnly: true},
		},
		"a directory of that name": {
			`40 25 8:1 /a/deleted /pods/b/mount ro - ext4 /dev/sda1 rw`,
			Info{Device: "8:1", Root: "/a/deleted", Target: "/pods/b/mount", FSType: "ext4", Source: "/dev/sda1", ReadOnly: true},
		},
		"no optional field": {
			`1 0 8:1 / / rw - ext4 /dev/sda1 rw`,
			Info{Device: "8:1", Root: "/", Target: "/", FSType: "ext4", Source: "/dev/sda1"},
		},
		"escapes": {
			`1 0 8:1 /a\040b /c\011d\012e\134f\043g rw - ext4 \040x rw`,
			Info{Device: "8:1", Root: "/a b", Target: "/c\td\ne\\f#g", FSType: "ext4", Source: " x"},
		},
		"an escaped backslash before digits is not undone twice": {
			`1 0 8:1 / /a\134040 rw - ext4 x rw`,
			Info{Device: "8:1", Root: "/", Target: `/a\040`, FSType: "ext4", Source: "x"},
		},
		"not an escape": {
			`1 0 8:1 / /a\04 rw - ext4 \999\777 rw`,
			Info{Device: "8:1", Root: "/", Target: `/a\04`, FSType: "ext4", Source: `\999\777`},
		},
		"empty source": {
			`1 0 0:5 / /x rw - tmpfs  rw`,
			Info{Device: "0:5", Root: "/", Target: "/x", FSType: "tmpfs"},
		},
		"a target named like the separator": {
			`1 0 0:5 / - rw - tmpfs - rw`,
			Info{Device: "0:5", Root: "/", Target: "-", FSType: "tmpfs", Source: "-"},
		},
		"ro only as a part of an option": {
			`1 0 0:5 / /x rw,prot - fuse.x y rw,errors=remount-ro`,
			Info{Device: "0:5", Root: "/", Target: "/x", FSType: "fuse.x", Source: "y"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(strings.NewReader(test.line + "\n"))
			if err != nil || len(got) != 1 || got[0] != test.want {
				t.Errorf("parse = %+v, %v\nwant    %+v", got, err, test.want)
			}
		})
	}
}

func TestParseMountinfoRefusesWhatItCannotRead(t *testing.T) {
	for _, line := range []string{
		"x", "1 0 8:1 / / rw", `1 0 8:1 / / rw - ext4`, `1 0 8:1 / / rw - ext4 x`,
		`1 0 8:1 / / rw shared:1 shared:2 shared:3 shared:4`, `1 0 8:1 - / rw a b c d`,
	} {
		if got, err := parse(strings.NewReader(overlayLine + "\n" + line + "\n")); err == nil {
			t.Errorf("parse(%q) = %+v", line, got)
		} else if !strings.Contains(err.Error(), "line 2") {
			t.Errorf("parse(%q): %q does not say where", line, err)
		}
	}
	broken := errors.New("broken")
	if _, err := parse(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("parse of a broken reader = %v", err)
	}
}

func TestTheLastMountOnATargetWins(t *testing.T) {
	lines := []string{overlayLine, strings.ReplaceAll(overlayLine, "ballast:abc", "above"), strings.ReplaceAll(overlayLine, "/pods/a", "/pods/b")}
	mounts, err := parse(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	if got, found := on(mounts, "/pods/a/mount"); !found || got.Source != "above" {
		t.Errorf("on = %+v, %v", got, found)
	}
	if got, found := on(mounts, "/pods/c/mount"); found {
		t.Errorf("on a target without a mount = %+v", got)
	}
}

func TestParseMountinfoTakesLinesOfAnyLength(t *testing.T) {
	long := overlayLine + strings.Repeat(":/lower", 1<<17)
	if got, err := parse(strings.NewReader(long)); err != nil || len(got) != 1 {
		t.Errorf("parse of a line of %d bytes = %d mounts, %v", len(long), len(got), err)
	}
}

func TestParseReadsThisProcess(t *testing.T) {
	if got, err := mounts(); err != nil || len(got) == 0 {
		t.Errorf("mounts() = %v, %v", got, err)
	}
}

func FuzzMountinfo(f *testing.F) {
	own, err := os.ReadFile(mountinfoPath)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(own))
	for _, seed := range []string{overlayLine, "", "\n\n", `1 0 8:1 / /a\04 rw - ext4 \999 rw`, `1 0 0:5 / - rw - tmpfs  rw`, "- - - - - - - - - -"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := parse(strings.NewReader(text))
		if err != nil {
			if mounts != nil {
				t.Errorf("mounts beside an error: %v", mounts)
			}
			return
		}
		for _, m := range mounts {
			if m.SuperReadOnly && !m.ReadOnly {
				t.Errorf("read-only superblock, writable mount: %+v", m)
			}
			if m.Target != unescape(escape(m.Target)) {
				t.Errorf("target %q does not survive the kernel's escapes", m.Target)
			}
			if _, found := on(mounts, m.Target); !found {
				t.Errorf("target %q is not found again", m.Target)
			}
		}
	})
}

// escape is what the kernel does.
func escape(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`).Replace(s)
}

func TestCheckRelease(t *testing.T) {
	for release, good := range map[string]bool{
		"5.15.0-105-generic": true, "5.15": true, "6.1.0": true, "10.0.1": true, "6.18.44-fc": true,
		"5.14.21": false, "4.19.0": false, "": false, "linux": false,
	} {
		if err := checkRelease(release); (err == nil) != good {
			t.Errorf("checkRelease(%q) = %v", release, err)
		}
	}
	if err := CheckKernel(); err != nil {
		t.Errorf("CheckKernel here: %v", err)
	}
}

func TestErrorsOfTheKernelsFileSystemContextAreRead(t *testing.T) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "no-such-option", "x"); err == nil {
		t.Skip("this kernel takes options on trust until create")
	}
	if got := fsLog(fs); !strings.Contains(got, "no-such-option") || strings.Contains(got, ": e ") {
		t.Errorf("fsLog = %q", got)
	}
	if got := fsLog(fs); got != "" {
		t.Errorf("second fsLog = %q", got)
	}
}

func TestSourceTellsVolumesAndTargetsApart(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range [][2]string{{"a", "/b"}, {"a/", "b"}, {"a", "/c"}, {"b", "/b"}} {
		seen[Source(v[0], v[1])] = true
	}
	if len(seen) != 4 {
		t.Errorf("4 volumes share %d sources", len(seen))
	}
	if got := Source("a", "/b"); len(got) != len(SourcePrefix)+64 || !strings.HasPrefix(got, SourcePrefix) {
		t.Errorf("Source = %q", got)
	}
}
