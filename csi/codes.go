package csi

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ballast-csi/ballast/agent/agentpb"
)

// reason is why a call did not succeed.
type reason string

const (
	waiting     reason = "waiting"      // time mends it: the View is not there yet
	pending     reason = "pending"      // another operation on the same target is in flight
	agentAway   reason = "agent_away"   // the agent could not be asked
	stopping    reason = "stopping"     // this server is
	cancelled   reason = "cancelled"    // the caller gave up
	unfinished  reason = "unfinished"   // mount or pin could not be undone
	foreign     reason = "foreign"      // the target holds a mount that is not this volume's
	badRequest  reason = "bad_request"  // the request, found here
	mountFailed reason = "mount_failed" // the kernel refused, or the agent's paths are bad
	nodeFailed  reason = "node_failed"  // mountinfo or the target could not be read or removed
	invalid     reason = "invalid"      // these are the agent's refusals
	notFound    reason = "not_found"
	badToken    reason = "bad_token"
	denied      reason = "denied"
	mismatch    reason = "mismatch"
	noSpace     reason = "no_space"
	agentFailed reason = "agent_failed"
)

// next is what kubelet does after a failed NodePublishVolume (pkg/volume/csi,
// csi_client.go isFinalError; operation_generator.go markVolumeErrorState).
type next int

const (
	// uncertain: the volume may be mounted. kubelet calls again after a pause, and
	// NodeUnpublishVolume once the pod is gone.
	uncertain next = iota
	// final: nothing is mounted. kubelet removes the target directory and calls again
	// after a pause, but never NodeUnpublishVolume: neither mount nor pin may be left.
	final
)

// outcomes is the one table of codes: what kubelet does next comes first, what the
// code is called second. (kubelet retries a failed NodeUnpublishVolume whatever its
// code.) The uncertain codes are Canceled, DeadlineExceeded, Unavailable,
// ResourceExhausted and Aborted; a test holds the two columns together.
var outcomes = map[reason]struct {
	next next
	code codes.Code
}{
	waiting:     {uncertain, codes.Aborted},     // calls again within 2 s at first; the text is the pod's event
	pending:     {uncertain, codes.Aborted},     // the specification's code for it
	agentAway:   {uncertain, codes.Unavailable}, // an earlier call may have left a pin
	stopping:    {uncertain, codes.Unavailable}, // the next process goes on
	cancelled:   {uncertain, codes.Canceled},    // nobody sees it
	unfinished:  {uncertain, codes.Unavailable}, // final but for what is left
	foreign:     {uncertain, codes.Unavailable}, // ours may lie below it, so the pin must stay
	badRequest:  {final, codes.InvalidArgument},
	mountFailed: {final, codes.Internal},
	nodeFailed:  {uncertain, codes.Unavailable}, // whether it is mounted is not known
	invalid:     {final, codes.InvalidArgument},
	notFound:    {final, codes.NotFound},
	badToken:    {final, codes.Unauthenticated},
	denied:      {final, codes.PermissionDenied},
	mismatch:    {final, codes.DataLoss},
	noSpace:     {uncertain, codes.ResourceExhausted}, // the operator may give the cache more
	agentFailed: {final, codes.Internal},
}

// refusals maps what the agent says a person must mend. A reason that this version
// does not know is agentFailed.
var refusals = map[agentpb.Refused_Reason]reason{
	agentpb.Refused_INVALID:         invalid,
	agentpb.Refused_NOT_FOUND:       notFound,
	agentpb.Refused_UNAUTHENTICATED: badToken,
	agentpb.Refused_DENIED:          denied,
	agentpb.Refused_MISMATCH:        mismatch,
	agentpb.Refused_NO_SPACE:        noSpace,
	agentpb.Refused_INTERNAL:        agentFailed,
}

// failure is an error that knows its row of the table.
type failure struct {
	reason reason
	text   string // for the pod's events
}

// failf makes a failure. What the agent said may be in its text.
func failf(r reason, format string, args ...any) *failure {
	return &failure{r, fit(fmt.Sprintf(format, args...))}
}

func (f *failure) Error() string { return f.text }

func (f *failure) final() bool { return outcomes[f.reason].next == final }

// maxText bounds a text in bytes: an event holds 1024, of which kubelet needs some.
const maxText = 800

// fit returns text as events and logs can show it: cut, and without what a terminal
// obeys.
func fit(text string) string {
	cut := len(text) > maxText
	if cut {
		text = text[:maxText]
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != '\n' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if cut {
		text = strings.TrimSuffix(text, "?") + "..." // half a character
	}
	return text
}

// GRPCStatus makes gRPC answer with the table's code (status.FromError).
func (f *failure) GRPCStatus() *status.Status { return status.New(outcomes[f.reason].code, f.text) }

// refused is the agent's refusal as a failure.
func refused(r *agentpb.Refused) *failure {
	why, known := refusals[r.GetReason()]
	if !known {
		why = agentFailed
	}
	text := r.GetMessage()
	if text == "" {
		text = "the agent refused the volume and did not say why (" + r.GetReason().String() + "): see its log"
	}
	return failf(why, "%s", text)
}

// reasonOf returns the failure's reason, or "" for another error or none.
func reasonOf(err error) reason {
	var f *failure
	if errors.As(err, &f) {
		return f.reason
	}
	return ""
}
