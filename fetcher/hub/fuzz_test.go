package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/ballast-csi/ballast/fetcher"
)

const (
	fuzzToken = "hf_sekrit"
	sha1Text  = "0123456789abcdef0123456789abcdef01234567"
	sha2Text  = "abababababababababababababababababababababababababababababababab"
)

func fuzzClient(t testing.TB) *Client {
	t.Helper()
	c, err := New(Config{Endpoint: "https://hub.example/hf"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func urlOf(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// wantFitText fails if an error cannot be shown to anyone.
func wantFitText(t *testing.T, err error) {
	t.Helper()
	s := err.Error()
	if len(s) > 2000 || strings.Contains(s, fuzzToken) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("not fit to show: %q", s)
	}
}

func FuzzInfo(f *testing.F) {
	for _, s := range []string{
		`{"_id":"621ffdc0","id":"org/name","sha":"` + sha1Text + `","siblings":[{"rfilename":"a"}]}`,
		`{"sha":"` + sha1Text + `","siblings":[{"sha":1}],"_id":"a"}`,
		`{"sha":"` + strings.ToUpper(sha1Text) + `"}`, `{"sha":"main"}`, `{"sha":{},"_id":[]}`, `{"_id":"../x","sha":"` + sha1Text + `"}`, `[]`, `{"sha`, `{"n":1e999}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		left := int64(1 << 20)
		body := &bounded{r: bytes.NewReader(text), left: &left}
		info, err := readInfo(&document{json.NewDecoder(body), body})
		if err != nil {
			wantFitText(t, malformed(request{what: "resolve"}, err))
			return
		}
		if info.Commit.IsZero() || !strings.Contains(strings.ToLower(string(text)), "sha") {
			t.Errorf("%q: %+v", text, info)
		}
		if len(info.RepoID) > 64 || strings.Trim(info.RepoID, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-") != "" {
			t.Errorf("%q: %+v", text, info)
		}
	})
}

// ETag, X-Linked-Etag and their kin.
func FuzzProof(f *testing.F) {
	f.Add(200, `"`+sha1Text+`"`, "", "", "", sha1Text)
	f.Add(200, `W/"`+sha1Text+`"`, "", "", "", sha1Text)
	f.Add(302, "", `"`+sha2Text+`"`, "9", sha2Text, sha1Text)
	f.Add(302, `"5f3c-1"`, `"W/"`, "", "", "main")
	f.Fuzz(func(t *testing.T, status int, etag, linked, size, xet, commit string) {
		h := http.Header{}
		for name, v := range map[string]string{"ETag": etag, "X-Linked-Etag": linked, "X-Linked-Size": size, "X-Xet-Hash": xet, "X-Repo-Commit": commit} {
			h.Set(name, v)
		}
		a := &answer{Response: &http.Response{StatusCode: status, Header: h}, home: true, seen: []http.Header{h}}
		proof, told := readProof(a)
		if told != (!proof.Commit.IsZero() || !proof.Digest.IsZero()) {
			t.Errorf("%+v, told: %v", proof, told)
		}
		if !proof.Commit.IsZero() && !strings.EqualFold(proof.Commit.String(), commit) {
			t.Errorf("%+v of %q", proof, commit)
		}
		switch d := proof.Digest; {
		case d.IsZero():
		case d.Algorithm() == fetcher.SHA256 && strings.Contains(linked, d.Hex()):
		case d.Algorithm() == fetcher.GitBlobSHA1 && strings.Contains(etag, d.Hex()) && status == http.StatusOK && size == "" && xet == "":
		default:
			t.Errorf("%+v of ETag %q, X-Linked-Etag %q", proof, etag, linked)
		}
	})
}

func FuzzErrorAnswer(f *testing.F) {
	f.Add(404, "RepoNotFound", "Repository not found", "", "", "", "application/json", `{"error":"x"}`)
	f.Add(401, "", "", `Bearer realm="Authentication required"`, "", "", "application/json", `{"error":"hf_sekrit is bad, see https://x/?sig=abc"}`)
	f.Add(429, "", "", "", `"api";r=0;t=55`, "9", "text/html", "<html>")
	f.Add(429, "", "", "", `"api";r=00;t=99999999999999999999, "resolvers";r=1;t=1`, "Mon, 02 Jan 2006 15:04:05 GMT", "", "")
	f.Add(503, "GatedRepo", "\u202e", "", "", "-1", "application/json", `{"error":{"error":[]}}`)
	f.Add(302, "", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, status int, code, message, challenge, limits, after, kind, body string) {
		if status == http.StatusOK {
			return
		}
		c := fuzzClient(t)
		h := http.Header{}
		for name, v := range map[string]string{"X-Error-Code": code, "X-Error-Message": message, "WWW-Authenticate": challenge,
			"RateLimit": limits, "Retry-After": after, "Content-Type": kind, "X-Request-Id": message, "Location": message} {
			h.Set(name, v)
		}
		q := request{what: "resolve org/name", method: http.MethodGet, url: c.at("/api/models/org/name"), cred: fetcher.NewSecret(fuzzToken), absent: errNoRevision}
		for _, home := range []bool{true, false} {
			res := &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
			a := &answer{Response: res, url: q.url, home: home, seen: []http.Header{h}}
			if home {
				c.heed(q.cred, res)
			}
			err := c.statusError(t.Context(), q, a)
			wantFitText(t, err)
			var limited *fetcher.RateLimitedError
			if errors.As(err, &limited) && (limited.RetryAfter < 0 || limited.RetryAfter > maxRetryAfter) {
				t.Errorf("wait for %s", limited.RetryAfter)
			}
			person := fetcher.Denied(err) || errors.Is(err, fetcher.ErrRevisionNotFound) || errors.Is(err, fetcher.ErrEntryNotFound)
			if person == fetcher.Transient(err) {
				t.Errorf("neither time nor a person, or both: %v", err)
			}
			if person && (!home || status < 400 || status >= 500) {
				t.Errorf("a verdict of %d: %v", status, err)
			}
		}
		for _, cred := range []fetcher.Secret{q.cred, {}} {
			if left := c.gate.left(limit{api, cred}); left > maxRetryAfter || left > 0 && cred.IsZero() {
				t.Errorf("the gate is closed for %s", left)
			}
		}
	})
}

// The next page is always asked at the endpoint's own origin.
func FuzzLink(f *testing.F) {
	for _, s := range []string{
		`<https://hub.example/hf/api/models/a/b/tree/x?cursor=1>; rel="next"`, `</x?cursor=1>; rel=next`, `<//evil/x>; rel="next"`, `<https://u:p@hub.example/>; rel="next"`,
		`<http://hub.example:80/>;rel="prev next"`, `<https://huggingface.co/x?c=1>; rel="next"`, `<a>; rel="xet-auth", <b>; rel=next`, `<<>>;rel=next`, `<javascript:1>; rel="next"`, `<?%zz>; rel=next`,
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		c := fuzzClient(t)
		a := &answer{Response: &http.Response{Header: http.Header{"Link": {first, second}}}, url: c.at("/api/models/a/b/tree/x"), home: true}
		next, err := c.nextPage(a)
		if err != nil {
			wantFitText(t, malformed(request{what: "list"}, err))
			return
		}
		if next != nil && (!c.home(next) || next.User != nil || next.Fragment != "") {
			t.Errorf("%q, %q lead to %s", first, second, next)
		}
	})
}

func FuzzLocation(f *testing.F) {
	for _, s := range []string{
		"https://cdn.example/x?sig=signature", "/relative", "//other/x", "http://hub.example/x", "ftp://x", "https://u:p@x/#f", "https://[::1]:1/", "https://[fe80::1%25eth0]/",
		"https://0x7f.1/", "https://2130706433/", "https://①②⑦.1/", "https://127.0.0.1./", "https://x:99999999/", "https://%00/", "", "?", "https:///x", "\x7f",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, location string) {
		from := urlOf(t, "https://hub.example/hf/org/name/resolve/main/x")
		next, err := redirectTarget(from, location)
		if err != nil {
			if len(location) > 40 && strings.Contains(err.Error(), location) {
				t.Errorf("the error repeats %q", location)
			}
			wantFitText(t, unusable(request{what: "read"}, err))
			return
		}
		if next.Scheme != "https" {
			wantFitText(t, downgrade(request{what: "read"}, from, next))
		}
		if next.Host == "" || next.User != nil || next.Fragment != "" {
			t.Errorf("%q leads to %+v", location, next)
		}
		host := next.Hostname()
		refused := (guard{}).host(host)
		if refused != nil {
			wantFitText(t, unusable(request{what: "read"}, refused))
		} else if addr, err := netip.ParseAddr(host); err == nil {
			if addr = addr.Unmap(); addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() {
				t.Errorf("%q may be connected to", host)
			}
		} else if last := strings.TrimSuffix(host, "."); last == "" || last[len(last)-1] >= '0' && last[len(last)-1] <= '9' && strings.Trim(last, "0123456789.") == "" {
			t.Errorf("%q may be connected to", host)
		}
	})
}

// Whatever comes in answer to a request for bytes, a reader gives those bytes of the
// body, all of them and no other, or an error.
func FuzzRangedAnswer(f *testing.F) {
	f.Add(206, "bytes 2-5/10", "", int64(4), []byte("cdef"), uint8(2), uint8(4))
	f.Add(206, "bytes 2-5/*", "", int64(-1), []byte("cdefg"), uint8(2), uint8(4))
	f.Add(200, "", "identity", int64(10), []byte("0123456789"), uint8(0), uint8(10))
	f.Add(200, "", "gzip", int64(10), []byte("0123456789"), uint8(0), uint8(10))
	f.Add(206, "bytes 02-5/10", "", int64(4), []byte("cdef"), uint8(2), uint8(4))
	f.Add(416, "bytes */10", "", int64(0), []byte{}, uint8(2), uint8(4))
	f.Fuzz(func(t *testing.T, status int, span, encoding string, length int64, body []byte, off, n uint8) {
		const size = 10
		if n == 0 || int(off)+int(n) > size {
			return
		}
		if length > int64(len(body)) {
			length = int64(len(body)) // net/http sees to that
		}
		if length >= 0 {
			body = body[:length]
		}
		c := fuzzClient(t)
		o := &object{client: c, rev: fetcher.Revision{}, file: fetcher.File{Size: size}}
		q := request{what: "read", method: http.MethodGet, cred: fetcher.NewSecret(fuzzToken)}
		if n != size {
			q.span = "bytes=..."
		}
		h := http.Header{"Content-Range": {span}, "Content-Encoding": {encoding}}
		res := &http.Response{StatusCode: status, Header: h, ContentLength: length, Body: io.NopCloser(bytes.NewReader(body))}
		a := &answer{Response: res, url: urlOf(t, "https://cdn.example/x?sig=signature"), seen: []http.Header{h}}
		r, err := o.reader(t.Context(), q, a, int64(off), int64(n))
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
			r.Close()
		}
		switch {
		case err != nil:
			wantFitText(t, err)
			if !fetcher.Transient(err) {
				t.Errorf("another try may not meet it: %v", err)
			}
		case !bytes.Equal(got, body) || len(got) != int(n):
			t.Errorf("%q was read of %q", got, body)
		case n != size && (status != http.StatusPartialContent || !strings.HasPrefix(span, "bytes ")):
			t.Errorf("%d %q was taken for a range", status, span)
		}
	})
}

func FuzzRateLimit(f *testing.F) {
	for _, s := range []string{`"api";r=0;t=55`, `"api"; r = 12 ; t = 5, "resolvers";r=0;t=1`, `"pages";r=-1;t=0`, `"a";r=9999999999999999999999;t=9999999999999999999999`, "60", "Mon, 02 Jan 2106 15:04:05 GMT"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, limits, after string) {
		h := http.Header{"Ratelimit": {limits}, "Retry-After": {after}}
		if wait := retryAfter(h); wait < 0 || wait > maxRetryAfter {
			t.Errorf("wait for %s", wait)
		}
		list := budgets(h)
		for _, b := range list {
			if b.left < 0 || b.reset < 0 || b.reset > maxRetryAfter || b.bucket == "" {
				t.Errorf("%q holds %+v", limits, b)
			}
		}
		if len(list) > 4 {
			t.Errorf("%d limits", len(list))
		}
	})
}
