package hubapi

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestOnlyOneFormOfATokenIsRead(t *testing.T) {
	for name, tc := range map[string]struct {
		values []string
		token  string
		err    error
	}{
		"none":               {nil, "", nil},
		"a token":            {[]string{"Bearer hf_a"}, "hf_a", nil},
		"lower case":         {[]string{"bearer hf_a"}, "hf_a", nil},
		"more spaces":        {[]string{"BEARER   hf_a "}, "hf_a", nil},
		"an empty one":       {[]string{"Bearer "}, "", nil},
		"a scheme alone":     {[]string{"Bearer"}, "", nil},
		"two":                {[]string{"Bearer hf_a", "Bearer hf_b"}, "", errTwoTokens},
		"the same one twice": {[]string{"Bearer hf_a", "Bearer hf_a"}, "", errTwoTokens},
		"Basic":              {[]string{"Basic aGZfYTo="}, "", fetcher.ErrBadToken},
		"no scheme":          {[]string{"hf_a"}, "", fetcher.ErrBadToken},
		"empty":              {[]string{""}, "", fetcher.ErrBadToken},
		"two in one":         {[]string{"Bearer hf_a, Bearer hf_b"}, "", fetcher.ErrBadToken},
		"beyond ASCII":       {[]string{"Bearer hf_ä"}, "", fetcher.ErrBadToken},
		"no text":            {[]string{"Bearer hf_\xff\xfe"}, "", fetcher.ErrBadToken},
		"a control":          {[]string{"Bearer hf_a\tb"}, "", fetcher.ErrBadToken},
		"huge":               {[]string{"Bearer " + strings.Repeat("a", 8<<10+1)}, "", fetcher.ErrBadToken},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := callerOf(http.Header{"Authorization": tc.values}, "ns")
			if !errors.Is(err, tc.err) || who.Token.Reveal() != tc.token || who.Namespace != "ns" {
				t.Errorf("got %q, %v; want %q, %v", who.Token.Reveal(), err, tc.token, tc.err)
			}
		})
	}
}

// FuzzAuthorization: a token that comes out can be sent on in a header as it is.
func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{"Bearer hf_a", "bearer  x", "Basic eDp5", "Bearer \x00", "Bearer é", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		who, err := callerOf(http.Header{"Authorization": {value}}, "")
		token := who.Token.Reveal()
		if err != nil && token != "" {
			t.Fatalf("%q is refused and read", value)
		}
		if !strings.HasSuffix(strings.TrimSpace(value), token) || len(token) > 8<<10 || strings.ContainsFunc(token, func(r rune) bool { return r < '!' || r > '~' }) {
			t.Fatalf("%q gives %q", value, token)
		}
	})
}
