package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestEndlessListingIsRefused(t *testing.T) {
	for _, c := range []struct {
		filler, pages int
		want          string
	}{{0, maxPages, "does not end"}, {100_000, 6, "longer"}} {
		h := hubtest.New(t)
		page, filler := 0, strings.Repeat(" ", c.filler)
		h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			page++
			w.Header().Set("Link", fmt.Sprintf(`<%s?cursor=%d>; rel="next"`, r.URL.Path, page))
			fmt.Fprintf(w, `[%s{}]`, filler)
			return true
		})
		client, err := New(Config{Endpoint: h.URL()})
		if err != nil {
			t.Fatal(err)
		}
		defer client.CloseIdle()
		client.maxAnswer = 512 << 10
		repo, err := fetcher.ParseRepo("org/name")
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Manifest(t.Context(), fetcher.Revision{Repo: repo}, fetcher.Secret{})
		if !errors.Is(err, fetcher.ErrMalformed) || !strings.Contains(err.Error(), c.want) || page != c.pages {
			t.Errorf("after %d pages: %v", page, err)
		}
	}
}

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
