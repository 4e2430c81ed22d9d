package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// clientVersions are the releases of huggingface_hub that are tried, each at an
// edge: the last of 0.x that wrote refs on every read, the last that resumed
// downloads is before 1.18, trees/ since 1.22, trees needed offline since 1.26, the
// last with httpx, and the newest with httpx2.
var clientVersions = []string{"0.30.2", "1.18.0", "1.22.0", "1.26.1", "1.28.0", "2.4.0"}

// uploader is the release that fills a Hub for a test.
const uploader = "1.28.0"

// python returns the interpreter of a virtual environment with huggingface_hub at
// version and everything it needs at the versions of testdata/. It is made below
// the user's cache directory once, and used again while those versions stay.
func python(t *testing.T, version string) string {
	t.Helper()
	wanted, err := filepath.Abs("testdata/huggingface_hub-" + version + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	pins, err := os.ReadFile(wanted)
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	abi, err := exec.CommandContext(t.Context(), "python3", "-c", "import venv, ensurepip, sys; print(sys.executable, sys.version)").CombinedOutput()
	if err != nil {
		t.Fatalf("the real clients need Python and its venv module: apt-get install python3 python3-venv\n%s%v", abi, err)
	}
	sum := sha256.Sum256(append(pins, abi...))
	dir := filepath.Join(base, "ballast-e2e", "huggingface_hub-"+version+"-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	interpreter, done := filepath.Join(dir, "venv", "bin", "python"), filepath.Join(dir, "done")
	if _, err := os.Stat(done); err == nil {
		return interpreter
	}
	t.Logf("making %s", dir)
	for _, args := range [][]string{
		{"python3", "-m", "venv", "--clear", filepath.Join(dir, "venv")},
		{interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r", wanted},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if err := os.WriteFile(done, pins, 0o644); err != nil {
		t.Fatal(err)
	}
	return interpreter
}

// client is one run of a script of testdata/ with a release of huggingface_hub.
type client struct {
	version  string
	script   string
	args     []string
	env      []string // besides a clean environment with an HF_HOME of its own
	wantCall int      // at least so many calls must have said "ok"
}

// run runs the script, logs what each call did, and returns its last line.
func (c client) run(t *testing.T) string {
	t.Helper()
	interpreter := python(t, c.version)
	cmd := exec.CommandContext(t.Context(), interpreter, append([]string{"-W", "ignore", "testdata/" + c.script}, c.args...)...)
	home := t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "HF_HOME=" + filepath.Join(home, "hf"),
		"HF_HUB_DISABLE_PROGRESS_BARS=1", "HF_HUB_DISABLE_TELEMETRY=1", "HF_HUB_DISABLE_UPDATE_CHECK=1", "PYTHONDONTWRITEBYTECODE=1"}, c.env...)
	out, err := cmd.CombinedOutput()
	ok, last := 0, ""
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		last = lines.Text()
		t.Logf("%s: %s", c.version, last)
		if strings.HasPrefix(last, "ok ") {
			ok++
		}
	}
	if err != nil {
		t.Fatalf("huggingface_hub %s, %s: %v", c.version, c.script, err)
	}
	if ok < c.wantCall {
		t.Fatalf("huggingface_hub %s, %s: %d calls did what they must; want %d", c.version, c.script, ok, c.wantCall)
	}
	return last
}

// asked is what the scripts of testdata/ take.
type asked struct {
	Repo    string            `json:"repo"`
	Type    string            `json:"type"`
	Commit  string            `json:"commit"`
	Files   map[string]string `json:"files"`
	Folders []string          `json:"folders"`
	Offline bool              `json:"offline"`
}

func (a asked) json(t *testing.T) string {
	t.Helper()
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// askFor describes files at commit of repo.
func askFor(repo, kind, commit string, files map[string][]byte) asked {
	a := asked{Repo: repo, Type: kind, Commit: commit, Files: map[string]string{}, Folders: []string{}}
	for path, content := range files {
		a.Files[path] = sha256Of(content)
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			if !slices.Contains(a.Folders, dir) {
				a.Folders = append(a.Folders, dir)
			}
		}
	}
	return a
}

func sha256Of(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
