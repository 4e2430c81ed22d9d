package hubtest_test

import (
	"testing"
	"time"

	"github.com/ballast-csi/ballast/fetcher/hub/hubtest"
)

func TestLimitsAreCountedByBucketAndCredentialInFixedWindows(t *testing.T) {
	h := hubtest.New(t)
	h.AddRepo("org/name", files)
	h.AddToken("friend")
	const window = 2500 * time.Millisecond
	h.Limit(2, 1, window)
	began := time.Now()
	info, file, friend := h.URL()+"/api/models/org/name", h.URL()+"/org/name/resolve/main/README.md", "Bearer friend"
	for i, c := range []struct {
		method, url, token string
		status             int
		left               string
	}{
		{"GET", info, "", 200, `"api";r=1;t=3`},
		{"GET", info, "", 200, `"api";r=0;t=3`},
		{"GET", info, "", 429, `"api";r=0;t=3`},
		{"HEAD", file, "", 200, `"resolvers";r=0;t=3`},
		{"GET", file, "", 429, `"resolvers";r=0;t=3`},
		{"GET", info, friend, 200, `"api";r=1;t=3`},
		{"GET", file, friend, 200, `"resolvers";r=0;t=3`},
	} {
		headers := []string{}
		if c.token != "" {
			headers = []string{"Authorization", c.token}
		}
		res, _ := ask(t, c.method, c.url, headers...)
		if time.Since(began) > time.Second {
			t.Skipf("%d requests took more than a second here: the window may be another", i+1)
		}
		if res.StatusCode != c.status || res.Header.Get("RateLimit") != c.left || (res.Header.Get("Retry-After") != "") != (c.status == 429) {
			t.Errorf("request %d: %s, %v", i+1, res.Status, res.Header)
		}
	}
	if got, want := h.Counts(), (hubtest.Counts{API: 4, ResolveHEAD: 1, ResolveGET: 2, Refused: 2}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	if res, _ := ask(t, "GET", info); res.Header.Get("RateLimit-Policy") != `"fixed window";"api";q=2;w=3` {
		t.Errorf("the policy is %q", res.Header.Get("RateLimit-Policy"))
	}
	time.Sleep(time.Until(began.Add(window)))
	if res, _ := ask(t, "GET", info); res.StatusCode != 200 {
		t.Errorf("in the next window: %s", res.Status)
	}
	h.Limit(0, 0, 0)
	h.ResetRequests()
	if res, _ := ask(t, "GET", file); res.StatusCode != 200 || h.Counts() != (hubtest.Counts{ResolveGET: 1}) {
		t.Errorf("without limits: %s, %+v", res.Status, h.Counts())
	}
}
