package placing

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	eldr "eldr.internal/client"
	"eldr.internal/client/eldrpb"
)

// Outcome of a decode.
type Outcome = eldrpb.ReleaseOutcome

const (
	// Unsaid is an end that does not tell how the answer was.
	Unsaid = eldrpb.ReleaseOutcome_RELEASE_OUTCOME_UNSPECIFIED
	// Completed is an answer that came whole.
	Completed = eldrpb.ReleaseOutcome_RELEASE_OUTCOME_COMPLETED
	// Failed is the worker's failure; after three in a row others are preferred to it.
	Failed = eldrpb.ReleaseOutcome_RELEASE_OUTCOME_FAILED
	// Cancelled is a caller that gave up.
	Cancelled = eldrpb.ReleaseOutcome_RELEASE_OUTCOME_CANCELLED
)

const releaseTimeout = time.Second

// Booking is a decode endpoint's place that is held for a request, until End.
type Booking struct {
	// Address is the endpoint, HOST:PORT.
	Address string

	asked    *Prefilled
	attempt  uint32
	leaseID  string
	workerID string
	dpRank   uint32
	release  func(outcome Outcome, outputTokens uint32)
	once     sync.Once
	ends     *sync.WaitGroup
}

func (p *Placer) booked(asked *Prefilled, address string, attempt uint32, held *eldr.Held) *Booking {
	return &Booking{
		Address: address, asked: asked, attempt: attempt, leaseID: held.GetLeaseId(),
		workerID: held.GetWorkerId(), dpRank: held.GetDpRank(), ends: &p.ends,
		release: func(outcome Outcome, outputTokens uint32) {
			held.OutputTokens = outputTokens
			held.Release(outcome)
		},
	}
}

// taken is the booking that came with the request. The decode engine's reports keep it alive.
func (p *Placer) taken(asked *Prefilled, address string) *Booking {
	given := asked.placed
	return &Booking{
		Address: address, asked: asked, attempt: given.Attempt, leaseID: given.LeaseID,
		workerID: given.WorkerID, dpRank: given.DPRank, ends: &p.ends,
		release: func(outcome Outcome, outputTokens uint32) {
			ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
			defer cancel()
			_, err := p.client.Release(ctx, &eldrpb.ReleaseRequest{
				Model: asked.Model, RequestId: asked.RequestID, Attempt: given.Attempt, LeaseId: given.LeaseID,
				Outcome: outcome, OutputTokens: outputTokens,
			})
			if err != nil {
				p.logger.Warn("a booking is left to expire", "request_id", asked.RequestID, "error", err)
			}
		},
	}
}

// Sign writes the booking into the body that Read was given, for the decode engine's connector, in place of
// the counts, which no decode engine needs.
func (b *Booking) Sign() {
	b.asked.params[eldrKey] = map[string]any{
		"request_id": b.asked.RequestID, "attempt": b.attempt, "lease_id": b.leaseID,
		"num_sequences": b.asked.Sequences,
	}
}

// RankHeader is the header that picks the worker's data-parallel rank at its address; empty where the
// worker is the only one there.
func (b *Booking) RankHeader() (name, value string) {
	if b.dpRank == 0 && !strings.HasSuffix(b.workerID, "/dp0") {
		return "", ""
	}
	return "x-data-parallel-rank", strconv.FormatUint(uint64(b.dpRank), 10)
}

// End releases the booking, once. It does not block, and never fails: what cannot be said now is said when
// the daemon is back.
func (b *Booking) End(outcome Outcome, outputTokens uint32) {
	b.once.Do(func() { b.ends.Go(func() { b.release(outcome, outputTokens) }) })
}
