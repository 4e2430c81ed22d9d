package hubapi

import (
	"errors"
	"net/http"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// Caller is who asks: the token that came with the request, if any, and the namespace
// of the pod whose address it came from. The first is the caller's word.
type Caller struct {
	Token     fetcher.Secret
	Namespace string // by Config.Admit; "" without one
}

// errTwoTokens: which of them is to be proved is not ours to choose.
var errTwoTokens = &badName{"", errors.New("more than one Authorization header: send one")}

// callerOf reads the one form in which the Hub takes tokens from its clients,
// "Authorization: Bearer hf_…". An empty token is none. Any other form is refused, as
// the Hub does, rather than taken for an anonymous request.
func callerOf(head http.Header, namespace string) (Caller, error) {
	who := Caller{Namespace: namespace}
	values := head.Values("Authorization")
	switch {
	case len(values) == 0:
		return who, nil
	case len(values) > 1:
		return who, errTwoTokens
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	token, err := fetcher.ParseSecret(text)
	if err != nil || !strings.EqualFold(scheme, "Bearer") {
		return who, fetcher.ErrBadToken
	}
	who.Token = token
	return who, nil
}
