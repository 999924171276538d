package eldr

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrRouterUnavailable is in the chain of every error that says no router answered.
var ErrRouterUnavailable = errors.New("the router does not answer")

// ErrRouterFault is in the chain of errors that are no answer of the contract: a fault of the router,
// or of something before it.
var ErrRouterFault = errors.New("no answer of the contract")

// Error is the router's answer that a call was not served. errors.As finds it.
type Error struct {
	Code    codes.Code
	Message string
	// Reason is the router's own word for the cause (ErrorInfo.reason).
	Reason string
	// Field, Expected and Found tell the first violation of an INVALID_ARGUMENT.
	Field, Expected, Found string
	// RetryAfter is how long to wait after a RESOURCE_EXHAUSTED; 0 where the router did not say.
	RetryAfter time.Duration

	kind error
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Message }

func (e *Error) Unwrap() error { return e.kind }

const domain = "eldr"

// Only the router adds its ErrorInfo; without it, gRPC itself gave these, as no server answered. A
// router that stops cancels what is under way.
func isSilence(code codes.Code) bool {
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled
}

func fromStatus(found *status.Status) *Error {
	e := &Error{Code: found.Code(), Message: found.Message()}
	isOurs := false
	for _, detail := range found.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			isOurs = detail.GetDomain() == domain
			e.Reason = detail.GetReason()
			values := detail.GetMetadata()
			e.Field, e.Expected, e.Found = values["field"], values["expected"], values["found"]
		case *errdetails.RetryInfo:
			e.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			defer e.violation(detail)
		}
	}
	switch e.Code {
	case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.ResourceExhausted,
		codes.Unauthenticated, codes.PermissionDenied, codes.Unavailable:
	default:
		e.kind = ErrRouterFault
	}
	if isSilence(e.Code) && !isOurs {
		e.kind = ErrRouterUnavailable
	}
	return e
}

// The metadata of ErrorInfo says the same without the ambiguity of a sentence, so it comes first.
func (e *Error) violation(request *errdetails.BadRequest) {
	if len(request.GetFieldViolations()) == 0 || e.Field != "" {
		return
	}
	first := request.GetFieldViolations()[0]
	e.Field = first.GetField()
	text := strings.TrimPrefix(first.GetDescription(), "expected ")
	e.Expected, e.Found, _ = strings.Cut(text, ", found ")
}

func fromError(err error) *Error { return fromStatus(status.Convert(err)) }

func fromProto(found *spb.Status) *Error { return fromStatus(status.FromProto(found)) }
