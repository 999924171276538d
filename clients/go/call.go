package eldr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"eldr.internal/client/eldrpb"
)

// Before the second and third try. The second helps when a connection broke under the call, the third
// when the router is back.
var retryPauses = [...]time.Duration{25 * time.Millisecond, 100 * time.Millisecond}

// IsFallback says that the client chose by itself, as the router did not answer. Nothing is booked.
func IsFallback(placement *eldrpb.Placement) bool {
	return placement.GetReason() == eldrpb.PlacementReason_PLACEMENT_REASON_CLIENT_FALLBACK
}

// call is one RPC, sent again (it is idempotent) while no answer comes and time is left. The waits of
// route, if any, are added to the timeout; a later try asks for what is left of them. Where there are
// replicas, a try takes its waits and at most half of the rest, so that a frozen one leaves time to ask
// another.
func (c *Client) call(
	ctx context.Context, model string, route *eldrpb.RouteRequest, try func(context.Context) error,
) error {
	began := time.Now()
	wait := route.GetWaitForSignature().AsDuration() + route.GetMaxWait().AsDuration()
	whole := proto.Clone(route).(*eldrpb.RouteRequest)
	deadline := began.Add(c.timeout + wait)
	if given, ok := ctx.Deadline(); ok {
		deadline = given
	}
	for attempt := 0; ; attempt++ {
		if c.breaker.isOpen() {
			return &Error{Code: codes.Unavailable, Message: "it was silent a moment ago", kind: ErrRouterUnavailable}
		}
		isLast := attempt >= len(retryPauses)
		var pause time.Duration
		if !isLast {
			pause = time.Duration(float64(retryPauses[attempt]) * (1 + rand.Float64()/4))
		}
		until := deadline
		if left := time.Until(deadline); c.several && !isLast && pause < left {
			patience := max(wait-time.Since(began), 0)
			until = time.Now().Add(patience + max(left-patience, 0)/2)
		}
		err := within(ctx, until, try)
		if err == nil {
			return nil
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		failure := fromError(err)
		if !errors.Is(failure, ErrRouterUnavailable) {
			return failure
		}
		isLate := isLast || time.Now().Add(pause).After(deadline)
		if isLate || failure.Code == codes.DeadlineExceeded && !c.several {
			c.trip(model, failure)
			return failure
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
		}
		if wait > 0 {
			askForRest(route, whole, time.Since(began))
		}
	}
}

func within(ctx context.Context, until time.Time, try func(context.Context) error) error {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return try(ctx)
}

// askForRest has route ask for what is left of the waits of whole. They come one after the other.
func askForRest(route, whole *eldrpb.RouteRequest, passed time.Duration) {
	first, second := whole.GetWaitForSignature().AsDuration(), whole.GetMaxWait().AsDuration()
	if first > 0 {
		route.WaitForSignature = durationpb.New(max(first-passed, 0))
	}
	if second > 0 {
		route.MaxWait = durationpb.New(max(second-max(passed-first, 0), 0))
	}
}

// Route picks a worker and books it. Release it when the decode has ended; or use Place. When the router
// does not answer in time, the placement is the client's own (IsFallback) and books nothing.
//
// The error is an *Error where the router refused, or has ErrRouterUnavailable in its chain where no
// worker is known to fall back on, or is the context's where the caller gave up.
func (c *Client) Route(ctx context.Context, request *eldrpb.RouteRequest) (*eldrpb.Placement, error) {
	request = proto.Clone(request).(*eldrpb.RouteRequest)
	wasAsked := !c.breaker.isOpen()
	var answer *eldrpb.RouteResponse
	err := c.call(ctx, request.GetModel(), request, func(ctx context.Context) (err error) {
		answer, err = c.router.Route(ctx, request)
		return err
	})
	if err == nil {
		c.pool.learn(request.GetModel(), answer.GetPlacement())
		return answer.GetPlacement(), nil
	}
	isSilent := errors.Is(err, ErrRouterUnavailable) || errors.Is(err, ErrRouterFault)
	isGivenUp := errors.Is(err, context.Canceled)
	if wasAsked && (isSilent || isGivenUp) {
		c.disown(request)
	}
	if !isSilent {
		return nil, err
	}
	if placement := c.pool.place(request); placement != nil {
		return placement, nil
	}
	return nil, fmt.Errorf("%w, and no worker of %s is known: %w", ErrRouterUnavailable, request.GetModel(), err)
}

// RegisterSignature adds one chunk of a request's counts to what the router holds of it.
func (c *Client) RegisterSignature(
	ctx context.Context, request *eldrpb.RegisterSignatureRequest,
) (*eldrpb.RegisterSignatureResponse, error) {
	var answer *eldrpb.RegisterSignatureResponse
	err := c.call(ctx, request.GetModel(), nil, func(ctx context.Context) (err error) {
		answer, err = c.router.RegisterSignature(ctx, request)
		return err
	})
	return answer, err
}

// StreamSignature is RegisterSignature by a stream that stays open. With Route in the request, the
// request is placed once the chunk is added, and that is the placement; it is never a fallback.
func (c *Client) StreamSignature(
	ctx context.Context, request *eldrpb.StreamSignaturesRequest,
) (*eldrpb.Placement, error) {
	request = proto.Clone(request).(*eldrpb.StreamSignaturesRequest)
	wasAsked := !c.breaker.isOpen()
	var answer *eldrpb.StreamSignaturesResponse
	err := c.call(ctx, request.GetModel(), request.GetRoute(), func(ctx context.Context) (err error) {
		answer, err = c.stream.exchange(ctx, request)
		return err
	})
	if err != nil {
		isAnswer := errors.As(err, new(*Error)) &&
			!errors.Is(err, ErrRouterUnavailable) && !errors.Is(err, ErrRouterFault)
		if request.GetRoute() != nil && wasAsked && !isAnswer {
			named := proto.Clone(request.GetRoute()).(*eldrpb.RouteRequest)
			named.Model, named.RequestId = request.GetModel(), request.GetRequestId()
			c.disown(named)
		}
		return nil, err
	}
	if answer.GetStatus() != nil {
		return nil, fromProto(answer.GetStatus())
	}
	if placement := answer.GetPlacement(); placement != nil {
		c.pool.learn(request.GetModel(), placement)
		return placement, nil
	}
	return nil, nil
}

// RenewLeases keeps bookings alive; the answer names those that are not.
func (c *Client) RenewLeases(
	ctx context.Context, request *eldrpb.RenewLeasesRequest,
) (*eldrpb.RenewLeasesResponse, error) {
	var answer *eldrpb.RenewLeasesResponse
	err := c.call(ctx, request.GetModel(), nil, func(ctx context.Context) (err error) {
		answer, err = c.router.RenewLeases(ctx, request)
		return err
	})
	return answer, err
}

// Release ends a booking; twice is fine. The result is UNSPECIFIED, without an error, where the router
// does not answer: the release is kept and sent once it does.
func (c *Client) Release(ctx context.Context, request *eldrpb.ReleaseRequest) (eldrpb.ReleaseResult, error) {
	var answer *eldrpb.ReleaseResponse
	err := c.call(ctx, request.GetModel(), nil, func(ctx context.Context) (err error) {
		answer, err = c.router.Release(ctx, request)
		return err
	})
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrRouterUnavailable) {
		c.unsaid.add(request) // the booking must end anyway
		c.wake()
		if !errors.Is(err, context.Canceled) {
			err = nil
		}
	}
	return answer.GetResult(), err
}
