package hub

import (
	"encoding/json"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

func FuzzTree(f *testing.F) {
	for _, s := range []string{
		`[]`, `[null]`, `[{"type":"directory","path":"d"}]`, `[{"oid":"","path":"","type":""}]`,
		`[{"type":"file","oid":"0123456789abcdef0123456789abcdef01234567","size":3,"path":"a/b"}]`,
		`[{"type":"file","oid":"0123456789abcdef0123456789abcdef01234567","size":3,"path":"../b"}]`,
		`[{"type":"file","oid":"0123456789abcdef0123456789abcdef01234567","size":9,"path":"l","lfs":{"oid":"abababababababababababababababababababababababababababababababab","size":9},"xetHash":"****"}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var page []json.RawMessage
		if json.Unmarshal(text, &page) != nil {
			return
		}
		files, err := parseTree(page)
		if err != nil {
			return
		}
		for _, file := range files {
			if p, err := fetcher.ParsePath(file.Path.String()); err != nil || p != file.Path || file.Digest.IsZero() || file.Size < 0 {
				t.Errorf("%s gave %+v", text, file)
			}
			if file.XetHash != "" && len(file.XetHash) != 64 {
				t.Errorf("%s gave the xet hash %q", text, file.XetHash)
			}
		}
	})
}
