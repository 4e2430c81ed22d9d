package cluster

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// planted is what these tests look for: the run's own search must not find it.
const planted = "BallastPlanted"

// TestSearchFindsATokenInAnyForm: else it would say little that none was found.
func TestSearchFindsATokenInAnyForm(t *testing.T) {
	token := []byte("hf_" + planted + "0123456789")
	for name, text := range map[string]string{
		"itself":      string(token),
		"JSON":        fmt.Sprintf(`{"token": %q}`, token),
		"base64":      base64.StdEncoding.EncodeToString(token),
		"base64 at 1": base64.StdEncoding.EncodeToString(append([]byte("x"), token...)),
		"base64 at 2": base64.RawURLEncoding.EncodeToString(append([]byte("xy"), token...)),
		"basic":       base64.StdEncoding.EncodeToString(append([]byte("user:"), token...)),
		"digits":      fmt.Sprintf("%x", token),
		"DIGITS":      fmt.Sprintf("%X", token),
	} {
		for _, before := range []int{0, 1<<20 - 30, 1<<20 - 5, 3 << 20} { // of a file that is read in parts
			dir, s := t.TempDir(), newSearch(planted, "")
			below := filepath.Join(dir, "a", "b")
			if err := errors.Join(os.MkdirAll(below, 0o755), os.WriteFile(filepath.Join(below, "f"), append(make([]byte, before), text...), 0o600)); err != nil {
				t.Fatal(err)
			}
			if err := s.tree("files", dir); err != nil || len(s.found) != 1 {
				t.Errorf("%s after %d bytes: found %v (%v)", name, before, s.found, err)
			}
		}
	}
}

// TestSearchFindsATokenWhereverItIs: a name, a link, a log of a pod that is gone, an
// event, an argument and an environment.
func TestSearchFindsATokenWhereverItIs(t *testing.T) {
	const token = "hf_" + planted + "0123456789"
	dir := t.TempDir()
	named, linked, said := filepath.Join(dir, "named"), filepath.Join(dir, "linked"), filepath.Join(dir, "pods", "ballast_x_y", "agent")
	if err := errors.Join(os.MkdirAll(filepath.Join(named, token), 0o755), os.Mkdir(linked, 0o755), os.Symlink(token, filepath.Join(linked, "l")),
		os.MkdirAll(said, 0o755), os.WriteFile(filepath.Join(said, "0.log"), []byte(token), 0o600), os.Mkdir(filepath.Join(dir, "kept"), 0o755)); err != nil {
		t.Fatal(err)
	}
	process := exec.CommandContext(t.Context(), "sh", "-c", "read ended", token) // until its input ends
	process.Env = []string{"HF_TOKEN=" + token}
	input, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		input.Close()
		_ = process.Wait() // read found no line
	}()
	for name, look := range map[string]func(*search) error{
		"name": func(s *search) error { return s.tree("files", named) },
		"link": func(s *search) error { return s.tree("files", linked) },
		"log": func(s *search) error {
			if err := errors.Join(s.keepLogs(filepath.Join(dir, "pods")), os.RemoveAll(said)); err != nil {
				return err
			}
			return s.tree("logs", s.logs)
		},
		"event": func(s *search) error {
			text, err := json.Marshal(&corev1.Event{Message: "with " + token})
			s.look("events", "", text)
			return err
		},
		"process": func(s *search) error { s.processes(); return nil },
	} {
		s := newSearch(planted, filepath.Join(dir, "kept"))
		want := 1
		if name == "process" {
			want = 2 // its arguments, and its environment
		}
		if err := look(s); err != nil || len(s.found) < want {
			t.Errorf("%s: found %v (%v)", name, s.found, err)
		}
	}
}
