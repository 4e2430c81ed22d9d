package hubapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/agent/hubapi"
)

func TestHostileNamesReachNoFile(t *testing.T) {
	s, _ := filled(t, "org/name")
	base := serve(t, hubapi.Cached(s))
	for _, path := range []string{
		"/org/name/resolve/main/../../../../etc/passwd", "/org/name/resolve/main/%2e%2e/%2e%2e/etc/passwd", "/org/name/resolve/main/..%2f..%2fetc%2fpasswd",
		"/org/name/resolve/main/%2fetc%2fpasswd", "/org/name/resolve/main//etc/passwd", "/org/name/resolve/main/config.json%00.bin", "/org/name/resolve/main/config.json/",
		"/org/name/resolve/main/.%2fconfig.json", "/org/name/resolve/main/config.json%0d%0aX-Evil:%201", "/org/name/resolve/main/%ff%fe", "/org/name/resolve/main/.GIT/config",
		"/org/name/resolve/main%2f..%2f" + commit + "/config.json", "/org/name/resolve/%00/config.json", "/org/name/resolve/refs%2fheads%2f..%2fmain/config.json",
		"/..%2forg/name/resolve/main/config.json", "/org%2fname/resolve/main/config.json/x", "/org/name%00/resolve/main/config.json", "/ORG/name/resolve/main/config.json",
		"/org/name/resolve/main/" + strings.Repeat("a/", 3000) + "b", "/org/name/resolve/main/" + strings.Repeat("a", 5000),
		"/api/models/org/name/tree/main/..%2f..", "/api/models/../../etc/passwd", "/api/datasets/org/name/tree/main", "/blobs/sha256/aa/" + strings.Repeat("a", 64),
	} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			r := ask(t, method, base+path, nil)
			if r.StatusCode < 400 || r.StatusCode >= 500 || len(r.body) > 1<<10 || r.Header.Get("X-Evil") != "" || r.Header.Get("ETag") != "" {
				t.Errorf("%s %.100s: %s, %d bytes, %v", method, path, r.Status, len(r.body), r.Header)
			}
		}
	}
}

func TestManyRangesAreRefused(t *testing.T) {
	s, _ := filled(t, "org/name")
	address := fileURL(serve(t, hubapi.Cached(s)), "org/name", "main", "model.safetensors")
	for _, ranges := range []string{"0-0,1-1", "0-0,", "0-,0-,0-", strings.TrimSuffix(strings.Repeat("0-9,", 5000), ","), "0-0, -1"} {
		r := ask(t, "GET", address, nil, "Range: bytes="+ranges)
		if r.StatusCode != http.StatusRequestedRangeNotSatisfiable || len(r.body) > 100 || r.Header.Get("Content-Range") != fmt.Sprintf("bytes */%d", len(files["model.safetensors"])) {
			t.Errorf("%.40s: %s, %d bytes, Content-Range %q", ranges, r.Status, len(r.body), r.Header.Get("Content-Range"))
		}
	}
}

func TestHostilePathsInfoIsBounded(t *testing.T) {
	s, _ := filled(t, "org/name")
	address := serve(t, hubapi.Cached(s)) + "/api/models/org/name/paths-info/main"
	const form, text = "application/x-www-form-urlencoded", "application/json"
	for name, c := range map[string]struct {
		kind, body string
		status     int
	}{
		"depth":                  {text, `{"paths":` + strings.Repeat("[", 200_000), 400},
		"depth elsewhere":        {text, `{"x":` + strings.Repeat(`{"a":`, 100_000), 400},
		"a million paths":        {text, `{"paths":[` + strings.Repeat(`"",`, 1_000_000) + `""]}`, 400},
		"as many as fit":         {text, `{"paths":[` + strings.Repeat(`"",`, 300_000) + `""]}`, 400},
		"a form of a million":    {form, strings.Repeat("paths=&", 1_000_000), 400},
		"10,001":                 {form, strings.Repeat("paths=a&", 10_001), 400},
		"the same 10,000 times":  {form, strings.TrimSuffix(strings.Repeat("paths=onnx&", 10_000), "&"), 200},
		"one of a megabyte":      {form, "paths=" + strings.Repeat("a/", 500_000), 200},
		"no names of files":      {text, `{"paths":["../..","/etc/passwd","\u0000","onnx/","//",""]}`, 200},
		"another type":           {text, `{"paths":"config.json"}`, 400},
		"no JSON":                {text, `<xml/>`, 400},
		"a bad escape in a form": {form, "paths=%zz", 400},
	} {
		r := ask(t, "POST", address, strings.NewReader(c.body), "Content-Type: "+c.kind)
		if r.StatusCode != c.status || len(r.body) > 1<<10 {
			t.Errorf("%s: %s, %d bytes; want %d and little", name, r.Status, len(r.body), c.status)
		}
	}
}
