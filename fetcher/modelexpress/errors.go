package modelexpress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/fetcher"
)

// errNotFound is ErrAbsent by the server's own word, which it may give of a model that
// only another server behind the same address has.
var errNotFound = fmt.Errorf("%w: the server does not find it", fetcher.ErrAbsent)

// What waiting does not mend. None of these is about the credential that a file was opened
// with, so none is one of fetcher's errors that say so.
var (
	errRequest = errors.New("the server does not take the request")
	errAccount = errors.New("the server does not let this agent's service account in (MODEL_EXPRESS_SECURITY_ALLOWED_SERVICE_ACCOUNTS)")
	errToken   = errors.New("the server does not take this agent's token (its tokenFile, or MODEL_EXPRESS_SECURITY_TOKEN_AUDIENCES)")
	errTooOld  = errors.New("it is no Model Express server, or older than 0.2.2")

	lasting = map[codes.Code]error{
		codes.InvalidArgument:  errRequest,
		codes.PermissionDenied: errAccount,
		codes.Unauthenticated:  errToken,
		codes.Unimplemented:    errTooOld,
		codes.NotFound:         errNotFound,
	}
)

// callError says what the end of a call means: that the caller gave up, or what the
// server answered.
func callError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	s := status.Convert(err)
	said := clean(s.Message())
	if known := lasting[s.Code()]; known != nil {
		return fmt.Errorf("%s: %w: %s", what, known, said)
	}
	return unreachable("%s: %s: %s", what, s.Code(), said)
}

// unreachable is what time may mend.
func unreachable(format string, args ...any) error {
	return &fetcher.UnreachableError{Err: fmt.Errorf(format, args...)}
}

// maxText is the most of a stranger's text that is told, in runes.
const maxText = 200

// clean makes a stranger's text fit for an event: one short line.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 4*maxText)], " "))
	if r := []rune(s); len(r) > maxText {
		s = string(r[:maxText]) + "..."
	}
	return strings.TrimSpace(s)
}
