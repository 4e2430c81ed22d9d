package mount

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAMountThatFailsTakesBackOnlyTheDirectoryItMade(t *testing.T) {
	dir := t.TempDir()
	there, made := filepath.Join(dir, "there"), filepath.Join(dir, "made")
	if err := os.Mkdir(there, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{there, made} {
		for _, undo := range []bool{false, true} {
			to, err := openTarget(path)
			if err != nil {
				t.Fatal(err)
			}
			to.close(undo)
			_, err = os.Stat(path)
			if path == there && err != nil {
				t.Errorf("undo %v: a directory that was there before: %v", undo, err)
			}
			if path == made && !undo {
				if err != nil {
					t.Errorf("a directory that is in use: %v", err)
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if path == made && undo && !os.IsNotExist(err) {
				t.Errorf("a directory made in vain is left: %v", err)
			}
		}
	}
}
