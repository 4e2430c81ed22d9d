package hub_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
	"github.com/ballast-csi/ballast/fetcher/sourcetest"
)

func TestTheHubIsASource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T, content []sourcetest.Content) sourcetest.Harness {
		h := hubtest.New(t)
		files := map[string][]byte{}
		for _, c := range content {
			files[c.Path.String()] = c.Bytes
		}
		commit := h.AddRepo("org/name", files)
		lie := func(tell func(l liarsAnswer)) func(testing.TB, string) {
			return func(_ testing.TB, path string) { h.Intercept(lieAbout(h, files[path], path, tell)) }
		}
		return sourcetest.Harness{
			Source: newClient(t, h.URL()), Hub: true,
			Revision: fetcher.Revision{Repo: repoOf(t, "org/name"), Commit: commitOf(t, commit)},
			Lies: map[sourcetest.Lie]func(testing.TB, string){
				sourcetest.Short:         lie(func(a liarsAnswer) { a.head(206, a.from, len(a.part)-9); a.Write(a.part[:len(a.part)-9]) }),
				sourcetest.Long:          lie(func(a liarsAnswer) { a.head(206, a.from, -1); a.Write(a.part); a.Write(a.file[:1000]) }),
				sourcetest.WrongBytes:    lie(func(a liarsAnswer) { a.head(206, a.from, len(a.part)); a.Write(flipped(a.part)) }),
				sourcetest.WrongOffset:   lie(func(a liarsAnswer) { a.head(206, 0, len(a.part)); a.Write(a.file[:len(a.part)]) }),
				sourcetest.WholeForRange: lie(func(a liarsAnswer) { a.head(200, -1, len(a.file)); a.Write(a.file) }),
				sourcetest.Stuck:         lie(func(a liarsAnswer) { a.head(206, a.from, len(a.part)); a.Write(a.part[:2]); a.wait(time.Hour) }),
				sourcetest.Dripping: lie(func(a liarsAnswer) {
					a.head(206, a.from, len(a.part))
					for i := 0; i < len(a.part) && a.wait(50*time.Millisecond); i++ {
						a.Write(a.part[i : i+1])
					}
				}),
				sourcetest.Disconnect: lie(func(a liarsAnswer) {
					a.head(206, a.from, len(a.part))
					a.Write(a.part[:2])
					panic(http.ErrAbortHandler)
				}),
				sourcetest.AbsentFile: func(_ testing.TB, path string) {
					h.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
						absent := strings.HasSuffix(r.URL.Path, "/"+path)
						if absent {
							w.Header().Set("X-Error-Code", "EntryNotFound")
							w.WriteHeader(http.StatusNotFound)
						}
						return absent
					})
				},
				sourcetest.AbsentRepo:    func(testing.TB, string) { h.SetPrivate("org/name", "another") },
				sourcetest.OtherRevision: func(testing.TB, string) { h.Remove("org/name", commit) },
			},
		}
	})
}

// liarsAnswer is what a lie has to work with: what was asked for of a file.
type liarsAnswer struct {
	w          http.ResponseWriter
	r          *http.Request
	file, part []byte
	from       int
}

// lieAbout has the CDN answer for one file by tell.
func lieAbout(h *hubtest.Hub, file []byte, path string, tell func(liarsAnswer)) func(http.ResponseWriter, *http.Request) bool {
	digest := h.Manifest("org/name")[path].Digest.Hex()
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/"+digest) {
			return false
		}
		from, to := 0, len(file)-1
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
		tell(liarsAnswer{w, r, file, file[from : to+1], from})
		return true
	}
}

// head sends headers for n bytes from an offset; n < 0: it says no length.
func (a liarsAnswer) head(status, from, n int) {
	if status == http.StatusPartialContent {
		a.w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+len(a.part)-1, len(a.file)))
	}
	if n >= 0 {
		a.w.Header().Set("Content-Length", strconv.Itoa(n))
	}
	a.w.WriteHeader(status)
}

func (a liarsAnswer) Write(b []byte) {
	a.w.Write(b)
	http.NewResponseController(a.w).Flush()
}

// wait waits, and reports whether the client is still there.
func (a liarsAnswer) wait(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-a.r.Context().Done():
		return false
	}
}

// flipped is b with a bit flipped in its middle.
func flipped(b []byte) []byte {
	b = append([]byte(nil), b...)
	b[len(b)/2] ^= 1
	return b
}
