package modelexpress

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

const pins = "testdata/modelexpress-0.7.0.txt"

// python returns the interpreter of a virtual environment with what pins names and nothing
// else: what the client's package needs for GPUs is some gigabytes. It is made below the
// user's cache directory once.
func python(t *testing.T) string {
	t.Helper()
	abi, err := exec.CommandContext(t.Context(), "python3", "-c", "import venv, ensurepip, sys; print(sys.executable, sys.version)").CombinedOutput()
	if err != nil {
		t.Fatalf("the real client needs Python and its venv module: apt-get install python3 python3-venv\n%s%v", abi, err)
	}
	sum := sha256.Sum256(append(must(os.ReadFile(pins))(t), abi...))
	dir := filepath.Join(must(os.UserCacheDir())(t), "ballast-e2e", "modelexpress-python-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock := must(os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644))(t)
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
		{interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--no-deps", "-r", pins},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	put(t, done, nil)
	return interpreter
}

// installed is what testdata/client.py prints.
type installed struct {
	Snapshot, Service string
	Messages          map[string]map[string][4]any
	Enums             map[string]map[string]int
	Methods           map[string][3]any
}

// install has the real client install a model from a server.
func install(t *testing.T, url, commit string) installed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python(t), "testdata/client.py", url, filepath.Join(t.TempDir(), "cache"), "org/tiny", commit)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "PYTHONDONTWRITEBYTECODE=1"}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	var i installed
	if err := json.Unmarshal(out, &i); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return i
}

// The project's own client takes the stand-in for a server of its own, so that a test of
// ours against the stand-in means something; and the real server as well.
func TestTheProjectsOwnClientInstallsFromEachServer(t *testing.T) {
	content := files()
	servers(t, func(t *testing.T, s endpoint) {
		lay(t, s.dir, commit, content)
		asked := commit
		if s.old {
			asked = "" // it needs an answer that names the revision
		}
		got := install(t, s.start(t), asked)
		if filepath.Base(got.Snapshot) != commit {
			t.Errorf("installed as %s", got.Snapshot)
		}
		for path, want := range content {
			b, err := os.ReadFile(filepath.Join(got.Snapshot, path))
			if served(path) && !bytes.Equal(b, want) || !served(path) && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %d bytes instead of %d, %v", path, len(b), len(want), err)
			}
		}
	})
}

// What we restate is what the newest client has.
func TestTheProtocolIsThatOfTheProjectsOwnClient(t *testing.T) {
	content := files()
	s := standIn(Newest)
	s.dir = t.TempDir()
	lay(t, s.dir, commit, content)
	theirs := install(t, s.start(t), commit)
	ours := modelexpresspb.File_modelexpress_proto
	service := ours.Services().Get(0)
	if string(service.FullName()) != theirs.Service {
		t.Errorf("the service is %s, not %s", service.FullName(), theirs.Service)
	}
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		if want := [3]any{string(m.Input().Name()), string(m.Output().Name()), m.IsStreamingServer()}; theirs.Methods[string(m.Name())] != want {
			t.Errorf("method %s: ours is %v, theirs %v", m.Name(), want, theirs.Methods[string(m.Name())])
		}
	}
	for i := range ours.Messages().Len() {
		m := ours.Messages().Get(i)
		has := theirs.Messages[string(m.Name())]
		if len(has) != m.Fields().Len() {
			t.Errorf("message %s: ours has %d fields, theirs %v", m.Name(), m.Fields().Len(), has)
		}
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			want := [4]any{float64(f.Number()), float64(f.Kind()), f.Cardinality() == protoreflect.Repeated, f.HasPresence()}
			if has[string(f.Name())] != want {
				t.Errorf("field %s: ours is %v, theirs %v", f.FullName(), want, has[string(f.Name())])
			}
		}
	}
	for i := range ours.Enums().Len() {
		e := ours.Enums().Get(i)
		for i := range e.Values().Len() {
			v := e.Values().Get(i)
			if n, ok := theirs.Enums[string(e.Name())][string(v.Name())]; !ok || n != int(v.Number()) {
				t.Errorf("%s.%s is %d, theirs %d", e.Name(), v.Name(), v.Number(), n)
			}
		}
	}
}
