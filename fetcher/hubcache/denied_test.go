package hubcache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ballast-csi/ballast/csi/mount/mounttest"
	"github.com/ballast-csi/ballast/fetcher"
)

// asUser has TestMain's process be a reader without rights: it opens the file whose
// Digest is in this variable from the cache in asUserDir, and prints the error.
const (
	asUser    = "BALLAST_HUBCACHE_READS"
	asUserDir = "BALLAST_HUBCACHE_DIR"
)

// TestReadAsUser is what the process of another user runs; by itself it tests nothing.
func TestReadAsUser(t *testing.T) {
	digest := os.Getenv(asUser)
	if digest == "" {
		t.Skip("it is what TestWhatMayNotBeReadSaysWhatWouldHelp runs as another user")
	}
	f := fetcher.File{Path: pathOf(t, "dir/a"), Size: 7, Digest: must[fetcher.Digest](t)(fetcher.ParseDigest(digest))}
	c := cacheAt(t, os.Getenv(asUserDir))
	_, err := read(t, c, revOf(t, "org/name", commitA), f)
	if err != nil && (!errors.Is(err, fetcher.ErrUnreadable) || errors.Is(err, fetcher.ErrAbsent) || fetcher.Transient(err)) {
		t.Errorf("%v; want a permanent ErrUnreadable", err)
	}
	_, authority := manifest(t, c, "org/name", commitA)
	if (authority == nil) != (err == nil) || authority != nil && !errors.Is(authority, fetcher.ErrUnreadable) {
		t.Errorf("the Source says %v, the Authority %v", err, authority)
	}
	fmt.Printf("said: %v\n", err)
}

func TestWhatMayNotBeReadSaysWhatWouldHelp(t *testing.T) {
	if mounttest.UserNamespace() {
		t.Skip("only root can be another user")
	}
	program := publicCopy(t)
	for what, c := range map[string]struct {
		change string // what is not for everyone, below the folder
		mode   os.FileMode
		group  int
		groups []uint32
		says   []string // nothing: it may be read
	}{
		"everyone may":                {"blobs", 0o755, 1000, nil, nil},
		"its group may, and we do":    {"BLOB", 0o640, 1000, []uint32{1000}, nil},
		"its group may":               {"BLOB", 0o640, 1000, []uint32{5, 6}, []string{"we are user 65532 of groups [5 6 65532]", "BLOB is 1234:1000 with mode 0640", "supplementalGroups: [1000] on the agent's pod would let us"}},
		"its group may not":           {"BLOB", 0o600, 1000, nil, []string{"1234:1000 with mode 0600: no group helps, as it is not readable by its own: chmod -R g+rX FOLDER, and then supplementalGroups: [1000]"}},
		"its group may not, and ours": {"BLOB", 0o600, 65532, nil, []string{"no group helps, as it is not readable by its own: chmod -R g+rX FOLDER"}},
		"a directory of the links":    {"snapshots/" + commitA + "/dir", 0o750, 1001, nil, nil},
		"the directory of the blobs":  {"blobs", 0o750, 1001, nil, []string{"blobs is 1234:1001 with mode 0750: supplementalGroups: [1001]"}},
		"the folder":                  {"", 0o700, 1002, nil, []string{"FOLDER is 1234:1002 with mode 0700: no group helps"}},
		"the cache":                   {"..", 0o750, 1003, nil, []string{"CACHE is 1234:1003 with mode 0750: supplementalGroups: [1003]"}},
	} {
		t.Run(what, func(t *testing.T) {
			l := layout{t, filepath.Join(public(t), "cache")}
			f := l.add("org/name", commitA, "dir/a", "content")
			l.settle()
			folder := filepath.Join(l.dir, "models--org--name")
			target := filepath.Join(folder, strings.Replace(c.change, "BLOB", "blobs/"+f.Digest.Hex(), 1))
			check(t, os.Chown(target, 1234, c.group))
			check(t, os.Chmod(target, c.mode))
			cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestReadAsUser$")
			cmd.Dir = "/"
			cmd.Env = append(cmd.Environ(), asUser+"="+f.Digest.String(), asUserDir+"="+l.dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532, Groups: c.groups}}
			out, err := cmd.CombinedOutput()
			if c.change == "snapshots/"+commitA+"/dir" { // the Source has the blob; the Authority may not list
				if err == nil || !strings.Contains(string(out), "said: <nil>") || !strings.Contains(string(out), "supplementalGroups: [1001]") {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if err != nil || (c.says == nil) != strings.Contains(string(out), "said: <nil>") {
				t.Errorf("%v: %s", err, out)
			}
			for _, says := range c.says {
				says = strings.NewReplacer("BLOB", "blobs/"+f.Digest.Hex(), "FOLDER", folder, "CACHE", l.dir).Replace(says)
				if !strings.Contains(string(out), says) {
					t.Errorf("%s\ndoes not say %s", out, says)
				}
			}
		})
	}
}

// public is a directory that everyone can reach.
func public(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		check(t, os.Chmod(d, 0o755))
	}
	return dir
}

// publicCopy is this test binary, for everyone to run.
func publicCopy(t *testing.T) string {
	t.Helper()
	from := must[*os.File](t)(os.Open("/proc/self/exe"))
	defer from.Close()
	to := must[*os.File](t)(os.OpenFile(filepath.Join(public(t), "test"), os.O_CREATE|os.O_WRONLY, 0o755))
	_, err := io.Copy(to, from)
	check(t, errors.Join(err, to.Close()))
	return to.Name()
}

func TestHelpFitsWhoReads(t *testing.T) {
	us := user{uid: 65532, groups: []int{5, 65532}}
	for what, c := range map[string]struct {
		stat unix.Stat_t
		says string
	}{
		"ours, closed to us":    {unix.Stat_t{Uid: 65532, Gid: 5, Mode: unix.S_IFREG | 0o040}, "as we own it: chmod -R u+rX /cache"},
		"ours, and open":        {unix.Stat_t{Uid: 65532, Gid: 5, Mode: unix.S_IFREG | 0o400}, "the file server refuses it"},
		"of our group, open":    {unix.Stat_t{Uid: 1, Gid: 5, Mode: unix.S_IFREG | 0o640}, "the file server refuses it"},
		"of our group, closed":  {unix.Stat_t{Uid: 1, Gid: 5, Mode: unix.S_IFREG | 0o604}, "chmod -R g+rX /cache"},
		"open to everyone":      {unix.Stat_t{Uid: 1, Gid: 2, Mode: unix.S_IFREG | 0o604}, "the file server refuses it"},
		"a directory to search": {unix.Stat_t{Uid: 1, Gid: 2, Mode: unix.S_IFDIR | 0o740}, "no group helps, as it is not readable by its own"},
	} {
		if said := us.help("/cache", c.stat); !strings.Contains(said, c.says) {
			t.Errorf("%s: %q; want %q", what, said, c.says)
		}
	}
}
