package manifestfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/manifestfile"
)

// What is wrong with a file becomes part of a pod's event, which holds 1 KiB and ends with
// what to do: it is one short line, however many keys are unknown.
func TestAFileOfManyUnknownKeysIsToldInOneLine(t *testing.T) {
	dir := t.TempDir()
	var entries []string
	for i := range 200 {
		entries = append(entries, fmt.Sprintf(`{"path":"f%d","size":1,"type":"file","lfs":{}}`, i)) // the Hub's own tree, not ours
	}
	text := fmt.Sprintf(`{"version":1,"repo":"org/name","commit":%q,"files":[%s]}`, strings.Repeat("a", 40), strings.Join(entries, ","))
	if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f := must[*manifestfile.Files](t)(manifestfile.New(manifestfile.Config{Dir: dir}))
	_, err := f.Resolve(t.Context(), repoOf(t, "org/name"), refOf(t, "main"), fetcher.Secret{})
	if err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 512 {
		t.Errorf("%d bytes in %d lines: %.300s", len(err.Error()), strings.Count(err.Error(), "\n")+1, err)
	}
}
