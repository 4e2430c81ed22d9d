package agent_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent"
	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/fetcher"
)

// one lists a file under a name, beside one that is as it should be.
func one(path string) func(*evil) {
	return func(e *evil) {
		e.add("config.json", []byte("{}"))
		e.add(path, []byte("x"))
	}
}

const (
	zeros40 = "0000000000000000000000000000000000000000"
	zeros64 = "0000000000000000000000000000000000000000000000000000000000000000"
)

func TestHostileNamesAreRefusedBeforeAnythingIsFetched(t *testing.T) {
	var rows []hostileRow
	for _, c := range []struct{ name, path string }{
		{"leaves the directory", "../../canary"},
		{"leaves it from within", "a/../../../canary"},
		{"absolute", "/etc/passwd"},
		{"this directory", "./config.json"},
		{"empty part", "a//b"},
		{"directory", "a/"},
		{"NUL", "a\x00b"},
		{"newline", "a\nb"},
		{"escape sequence", "a\x1b[2Jb"},
		{"part of 256 bytes", strings.Repeat("n", 256)},
		{"65 parts", strings.Repeat("d/", 64) + "f"},
		{"1,500 levels", strings.Repeat("d/", 1500) + "f"},
		{"whole of 3,073 bytes", strings.Repeat("n/", 1536) + "n"},
		{"of git", ".git/config"},
		{"of git in capitals, nested", "a/.GIT/hooks/post-checkout"},
		{"of git to NTFS", "GIT~1/config"},
		{"of git to HFS+", ".g\u200cit/config"},
		{"empty", ""},
		{"dots alone", ".."},
	} {
		rows = append(rows, hostileRow{name: c.name, repo: one(c.path), refused: fetcher.ErrMalformed, says: []string{"file path", "choose another revision"}})
	}
	runHostile(t, rows)
}

func TestHostileListingsAreRefused(t *testing.T) {
	malformed := func(name string, repo func(*evil), says ...string) hostileRow {
		return hostileRow{name: name, repo: repo, refused: fetcher.ErrMalformed, says: append(says, "choose another revision")}
	}
	big := strings.Repeat("1", 64)
	runHostile(t, []hostileRow{
		malformed("a path twice", func(e *evil) { e.add("model.bin", []byte("a")); e.add("model.bin", []byte("b")) }, "model.bin", "twice"),
		malformed("a path twice, the same", func(e *evil) { e.add("model.bin", []byte("a")); e.add("model.bin", []byte("a")) }, "model.bin", "twice"),
		malformed("a path that is a file and a directory", func(e *evil) {
			e.add("model", []byte("a"))
			e.add("model-1", []byte("a"))
			e.add("model/config.json", []byte("{}"))
		}, "model", "both a file and a directory"),
		malformed("one digest of two sizes", func(e *evil) { e.listLFS("a", 1, big); e.listLFS("b", 2, big) }, "sizes 1 and 2"),
		malformed("a size below zero", func(e *evil) { e.list("a", -1, zeros40) }, "a: size is -1"),
		malformed("a size below zero in LFS", func(e *evil) { e.listLFS("a", -1<<63, big) }, "a: size is -9223372036854775808"),
		malformed("sizes whose sum overflows", func(e *evil) { e.list("a", 1<<62, zeros40); e.listLFS("b", 1<<62, big) }, "size"),
		malformed("a size of more than 64 TiB", func(e *evil) { e.listLFS("model.bin", 1<<46+1, big) }, "model.bin", "70368744177665"),
		malformed("a size beyond all integers", func(e *evil) {
			e.raw(`{"type":"file","path":"a","oid":"%s","size":1e400}`, zeros40)
		}, "size"),
		malformed("a size in words", func(e *evil) { e.raw(`{"type":"file","path":"a","oid":"%s","size":"1"}`, zeros40) }),
		malformed("two sizes of one file", func(e *evil) {
			e.raw(`{"type":"file","path":"model.bin","oid":"%s","size":1,"lfs":{"oid":"%s","size":2}}`, zeros40, big)
		}, "model.bin", "2 in LFS"),
		malformed("a digest that is none", func(e *evil) { e.list("a", 1, "../../../canary") }, "digest"),
		malformed("a digest in capitals", func(e *evil) { e.list("a", 1, strings.Repeat("A", 40)) }, "digest"),
		malformed("a digest of another length", func(e *evil) { e.listLFS("a", 1, zeros40) }, "digest"),
		malformed("an entry that is none", func(e *evil) { e.raw(`["file"]`) }, "no object"),
		{name: "nothing at all", refused: agent.ErrNothingSelected, says: []string{"include and exclude"}, repo: func(e *evil) {
			e.on[onTree] = func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, `[{"type":"directory","path":".."}]`) }
		}},
	})
}

// A size is a claim: it costs nothing but what is said of it.
func TestHostileSizesTakeNoRoom(t *testing.T) {
	const tb = 1e12
	runHostile(t, []hostileRow{
		{name: "10 TB in a model", refused: store.ErrTooLarge, says: []string{"model.safetensors", "10000000000000 bytes", "leave the file out with exclude"},
			repo: func(e *evil) { e.listLFS("model.safetensors", 10*tb, zeros64); e.claim("model.safetensors", zeros64) }},
		{name: "64 TiB in a config", refused: store.ErrTooLarge, says: []string{"config.json"},
			repo: func(e *evil) { e.list("config.json", 1<<46, zeros40); e.claim("config.json", zeros40) }},
		{name: "10 TB among much else", refused: store.ErrTooLarge, says: []string{"model.safetensors"},
			repo: func(e *evil) {
				for i := range 300 {
					e.add(fmt.Sprintf("part-%03d", i), noise(uint64(i), 100))
				}
				e.listLFS("model.safetensors", 10*tb, zeros64)
				e.claim("model.safetensors", zeros64)
			}},
	})
}

// claim makes the HEAD that proves access say what the listing says.
func (e *evil) claim(path, sum string) { e.files[path] = evilFile{sum: sum, lfs: len(sum) == 64} }

func TestHostilePagesEnd(t *testing.T) {
	next := func(w http.ResponseWriter, to string) { w.Header().Set("Link", "<"+to+`>; rel="next"`) }
	const tree = "/api/models/" + evilRepo + "/tree/" + evilCommit
	page := 0
	runHostile(t, []hostileRow{
		{name: "pages without end", refused: fetcher.ErrMalformed, says: []string{"does not end"}, repo: func(e *evil) {
			e.on[onTree] = func(w http.ResponseWriter, _ *http.Request) {
				page++
				next(w, fmt.Sprintf("%s?cursor=%d", tree, page))
				answerJSON(w, `[{"type":"file","oid":"%s","size":1,"path":"f%d"}]`, zeros40, page)
			}
		}},
		{name: "pages without end or entries", refused: fetcher.ErrMalformed, says: []string{"does not end"}, repo: func(e *evil) {
			e.on[onTree] = func(w http.ResponseWriter, _ *http.Request) {
				page++
				next(w, fmt.Sprintf("%s?cursor=%d", tree, page))
				answerJSON(w, `[]`)
			}
		}},
		{name: "pages in a ring", refused: fetcher.ErrMalformed, says: []string{"does not end"}, repo: func(e *evil) {
			e.on[onTree] = func(w http.ResponseWriter, r *http.Request) {
				next(w, map[string]string{"": tree + "?cursor=a", "a": tree + "?cursor=b", "b": tree + "?cursor=a"}[r.URL.Query().Get("cursor")])
				answerJSON(w, `[]`)
			}
		}},
		{name: "the next page at a cloud's metadata address", refused: fetcher.ErrMalformed, says: []string{"another host", "169.254.169.254"}, repo: func(e *evil) {
			e.on[onTree] = func(w http.ResponseWriter, _ *http.Request) {
				next(w, "http://169.254.169.254/latest/meta-data/")
				answerJSON(w, `[]`)
			}
		}},
		{name: "the next page in a file", refused: fetcher.ErrMalformed, says: []string{"another host"}, repo: func(e *evil) {
			e.on[onTree] = func(w http.ResponseWriter, _ *http.Request) {
				next(w, "file:///etc/passwd")
				answerJSON(w, `[]`)
			}
		}},
		{name: "a million entries that are nothing", refused: fetcher.ErrMalformed, says: []string{"more entries"}, within: 20e9, memory: 64 << 20, repo: func(e *evil) {
			e.on[onTree] = func(w http.ResponseWriter, _ *http.Request) {
				answerJSON(w, "[%s{}]", strings.Repeat("{},", fetcher.MaxFiles))
			}
		}},
	})
}
