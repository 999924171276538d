package eldr

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"eldr.internal/client/eldrpb"
)

// A release on the way out has so long, whatever became of the caller's context.
const releaseTimeout = time.Second

// Held is a placement whose lease is kept alive until it is released. Set what is known of the decode
// before that.
type Held struct {
	*eldrpb.Placement
	OutputTokens   uint32
	DecodeDuration time.Duration
	DecodeCounts   *eldrpb.ActivationCounts

	client  *Client
	request *eldrpb.RouteRequest
	stop    context.CancelFunc
	once    sync.Once
}

// Place is Route whose booking is kept alive in the background, until Release or Done is called.
func (c *Client) Place(ctx context.Context, request *eldrpb.RouteRequest) (*Held, error) {
	placement, err := c.Route(ctx, request)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(c.life)
	request = proto.Clone(request).(*eldrpb.RouteRequest) // the caller may change its own for the next attempt
	held := &Held{Placement: placement, client: c, request: request, stop: stop}
	if held.isBooked() {
		go held.renew(life, placement.GetLeaseRemaining().AsDuration()/3)
	}
	return held, nil
}

// Release ends the booking with how the decode ended. Only the first call counts, so a deferred one may
// follow. It never fails: what cannot be said now is said when the router is back.
func (h *Held) Release(outcome eldrpb.ReleaseOutcome) {
	h.once.Do(func() {
		h.stop()
		if !h.isBooked() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
		defer cancel()
		release := &eldrpb.ReleaseRequest{
			Model:        h.request.GetModel(),
			RequestId:    h.request.GetRequestId(),
			Attempt:      h.request.GetAttempt(),
			LeaseId:      h.GetLeaseId(),
			Outcome:      outcome,
			OutputTokens: h.OutputTokens,
			DecodeCounts: h.DecodeCounts,
		}
		if h.DecodeDuration > 0 {
			release.DecodeDuration = durationpb.New(h.DecodeDuration)
		}
		h.client.say(ctx, release)
	})
}

// Done releases with the outcome that err tells: COMPLETED for nil, CANCELLED for a context that was
// cancelled, FAILED for any other.
func (h *Held) Done(err error) {
	switch {
	case err == nil:
		h.Release(eldrpb.ReleaseOutcome_RELEASE_OUTCOME_COMPLETED)
	case errors.Is(err, context.Canceled):
		h.Release(eldrpb.ReleaseOutcome_RELEASE_OUTCOME_CANCELLED)
	default:
		h.Release(eldrpb.ReleaseOutcome_RELEASE_OUTCOME_FAILED)
	}
}

// A fallback was disowned already, if the router was asked at all; a dry run has no lease.
func (h *Held) isBooked() bool { return h.GetLeaseId() != "" }

func (h *Held) renew(life context.Context, every time.Duration) {
	request := &eldrpb.RenewLeasesRequest{
		Model: h.request.GetModel(),
		Leases: []*eldrpb.LeaseReference{{
			RequestId: h.request.GetRequestId(), Attempt: h.request.GetAttempt(), LeaseId: h.GetLeaseId(),
		}},
	}
	ticker := time.NewTicker(max(every, 100*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-life.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(life, h.client.timeout)
		answer, err := h.client.RenewLeases(ctx, request)
		cancel()
		if err == nil && len(answer.GetUnknown()) > 0 {
			h.client.logger.Warn("the booking has ended", "request_id", h.request.GetRequestId())
			return
		}
	}
}
