package eldr

import (
	"context"
	"errors"
	"sync"
	"time"

	"eldr.internal/client/eldrpb"
)

const (
	firstProbe = 100 * time.Millisecond
	lastProbe  = 250 * time.Millisecond
	// Releases that wait for the router to return; the oldest are left to the expiry of their leases.
	maxUnsaid = 10_000
)

// breaker is open from the first call without an answer until a probe is answered. One failure is
// enough, as it costs little: a router that is well answers the first probe.
type breaker struct {
	mu    sync.Mutex
	model string // of the call that tripped it
	open  bool
}

func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

func (b *breaker) set(open bool, model string) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = b.open != open
	b.open, b.model = open, model
	return changed
}

// unsaid has the releases that the router has not heard, in their order.
type unsaid struct {
	mu       sync.Mutex
	requests []*eldrpb.ReleaseRequest
}

func (u *unsaid) add(request *eldrpb.ReleaseRequest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) == maxUnsaid {
		u.requests = u.requests[1:]
	}
	u.requests = append(u.requests, request)
}

func (u *unsaid) take() *eldrpb.ReleaseRequest {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) == 0 {
		return nil
	}
	first := u.requests[0]
	u.requests = u.requests[1:]
	return first
}

func (u *unsaid) clear() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	left := len(u.requests)
	u.requests = nil
	return left
}

func (c *Client) trip(model string, err error) {
	if c.breaker.set(true, model) {
		c.logger.Warn("the router does not answer; falling back", "error", err)
	}
	c.wake()
}

// disown ends what may be booked without our knowing its lease.
func (c *Client) disown(request *eldrpb.RouteRequest) {
	if request.GetDryRun() {
		return
	}
	c.unsaid.add(&eldrpb.ReleaseRequest{
		Model:     request.GetModel(),
		RequestId: request.GetRequestId(),
		Attempt:   request.GetAttempt(),
		Outcome:   eldrpb.ReleaseOutcome_RELEASE_OUTCOME_CANCELLED,
	})
	c.wake()
}

func (c *Client) wake() {
	select {
	case c.wakes <- struct{}{}:
	default:
	}
}

// doChores finds the router again, then says what is unsaid.
func (c *Client) doChores() {
	defer c.chores.Done()
	for {
		select {
		case <-c.life.Done():
			return
		case <-c.wakes:
		}
		for pause := firstProbe; c.breaker.isOpen(); pause = min(2*pause, lastProbe) {
			select {
			case <-c.life.Done():
				return
			case <-time.After(pause):
			}
			c.probe()
		}
		for !c.breaker.isOpen() && c.life.Err() == nil {
			request := c.unsaid.take()
			if request == nil {
				break
			}
			c.say(c.life, request)
		}
	}
}

// probe asks the very path that calls take, so that whatever hangs there keeps the breaker open. Any
// answer will do, an error too; it books nothing.
func (c *Client) probe() {
	c.breaker.mu.Lock()
	request := &eldrpb.RouteRequest{Model: c.breaker.model, RequestId: "eldr-client-probe", DryRun: true}
	c.breaker.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.life, c.timeout)
	defer cancel()
	if _, err := c.router.Route(ctx, request); err != nil && errors.Is(fromError(err), ErrRouterUnavailable) {
		return
	}
	c.breaker.set(false, "")
	c.logger.Info("the router answers again")
}

// say sends a release that no caller waits for.
func (c *Client) say(ctx context.Context, request *eldrpb.ReleaseRequest) {
	if _, err := c.Release(ctx, request); err != nil {
		c.logger.Warn("a release was refused", "request_id", request.GetRequestId(), "error", err)
	}
}
