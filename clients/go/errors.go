package secondlook

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is why a call failed; every error of a call is one (errors.As). Its text is the server's
// sentence, which names the cause and the way out.
type Error struct {
	Code       codes.Code
	Reason     string        // stable word for programs, such as "bad_image"
	RetryAfter time.Duration // when trying again is likely to succeed; 0: nothing is known
	cause      error
}

func (e *Error) Error() string { return status.Convert(e.cause).Message() }

// Unwrap gives gRPC's error, whose details name the wrong field of a request.
func (e *Error) Unwrap() error { return e.cause }

// ofTransport names what gRPC itself says, without a reason of the server.
var ofTransport = map[codes.Code]string{
	codes.Unavailable: "unavailable", codes.DeadlineExceeded: "deadline_exceeded",
	codes.Canceled: "cancelled", codes.ResourceExhausted: "busy", codes.Unimplemented: "not_supported",
}

func typed(cause error) *Error {
	var known *Error
	if errors.As(cause, &known) {
		return known
	}
	told := status.Convert(cause)
	failed := &Error{Code: told.Code(), cause: cause}
	for _, detail := range told.Details() {
		switch found := detail.(type) {
		case *errdetails.ErrorInfo:
			failed.Reason = strings.ToLower(found.Reason)
		case *errdetails.RetryInfo:
			failed.RetryAfter = found.RetryDelay.AsDuration()
		}
	}
	if failed.Reason == "" && strings.Contains(told.Message(), "larger than max") {
		failed.Code, failed.Reason = codes.InvalidArgument, "message_too_large"
	} else if failed.Reason == "" {
		failed.Reason = ofTransport[failed.Code]
	}
	return failed
}

const firstPause, longestPause = 100 * time.Millisecond, 5 * time.Second

// spread gives a pause of up to half as much again.
func spread(pause time.Duration) time.Duration {
	return pause + time.Duration(rand.Float64()*float64(pause)/2)
}

func unavailable(cause error) *Error {
	return &Error{Code: codes.Unavailable, Reason: ofTransport[codes.Unavailable], cause: cause}
}

// forever is the patience of streams, which outlive many servers.
const forever = time.Duration(math.MaxInt64)

// refused are the codes with which the same request would be refused again.
var refused = []codes.Code{codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
	codes.Unauthenticated, codes.FailedPrecondition, codes.Unimplemented}

// again makes attempts until one succeeds or fails for good. A server that is busy is tried until
// the context ends, at the pace that it hints; one that does not answer, with patience. An attempt
// that made progress begins the count anew.
func again(ctx context.Context, patience time.Duration, attempt func() (progress bool, err error)) error {
	var silentSince time.Time
	for failures := 0; ; failures++ {
		progress, cause := attempt()
		if cause == nil {
			return nil
		}
		failed := typed(cause)
		if failed.Code == codes.Canceled && ctx.Err() == nil { // by a server that stops
			failed = unavailable(cause)
		}
		if progress {
			failures = 0
		}
		silent := failed.Code == codes.Unavailable
		if progress || !silent || silentSince.IsZero() {
			silentSince = time.Now()
		}
		busy := failed.Code == codes.ResourceExhausted && failed.Reason != "storage_full"
		patient := silent && time.Since(silentSince) < patience
		if !busy && !patient && (patience != forever || slices.Contains(refused, failed.Code)) {
			return failed
		}
		// A hint is the same for everybody who was refused; chance spreads them.
		backoff := min(firstPause<<min(failures, 10), longestPause)
		pause := max(spread(failed.RetryAfter), spread(backoff/2))
		if ends, bounded := ctx.Deadline(); bounded && time.Now().Add(pause).After(ends) {
			return failed
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return typed(status.FromContextError(ctx.Err()).Err())
		}
	}
}

func (options Options) unary(ctx context.Context, method string, request, answer any, line *grpc.ClientConn,
	invoke grpc.UnaryInvoker, more ...grpc.CallOption) error {
	if _, bounded := ctx.Deadline(); !bounded {
		limited, cancel := context.WithTimeout(ctx, options.Timeout)
		defer cancel()
		ctx = limited
	}
	return again(ctx, options.UnavailableFor, func() (bool, error) {
		return false, invoke(ctx, method, request, answer, line, more...)
	})
}
