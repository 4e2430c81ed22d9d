package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFileInPlaceOfADirectoryIsToldAtTheStart(t *testing.T) {
	clean(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	_, err := ballast(t, "agent", "--cache-dir="+filepath.Join(dir, "cache"), "--config", configFile(t, `
sources:
- {pvc: {dir: `+file+`}}
manifests: {dir: `+file+`}
`))
	if err == nil {
		t.Fatal("it started")
	}
	for _, want := range []string{"sources[0]: " + file + ": it is not a directory", "manifests.dir: " + file + ": it is not a directory"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}
