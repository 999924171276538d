package placing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	eldr "eldr.internal/client"
	"eldr.internal/client/eldrpb"
)

// ErrElsewhere says that ELDR placed the request on workers that are none of the endpoints.
var ErrElsewhere = errors.New("ELDR's workers are at none of the endpoints")

const (
	// DefaultTimeout of a decision, all tries together.
	DefaultTimeout = 50 * time.Millisecond
	// Placements name the chosen worker and three others, so the second try knows most that to leave out.
	tries = 3
)

// Endpoint is one that a decode may go to.
type Endpoint struct {
	// Address is HOST:PORT.
	Address string
	// Cached is the share of the prompt whose KV the endpoint holds already, 0 to 1; 0 where that is not known.
	Cached float64
}

// Options of a Placer.
type Options struct {
	// Timeout of a decision; 0 stands for DefaultTimeout.
	Timeout time.Duration
	// Client's own options. The timeout there is for its chores.
	Client eldr.Options
}

// Placer asks the daemon for decode endpoints, for any number of goroutines.
type Placer struct {
	client  *eldr.Client
	timeout time.Duration
	known   directory
	logger  *slog.Logger
	ends    sync.WaitGroup // releases under way
}

// New Placer for the daemon, or its replicas, at target, as the Go client's NewClient takes it.
func New(target string, options Options) (*Placer, error) {
	client, err := eldr.NewClient(target, options.Client)
	if err != nil {
		return nil, err
	}
	placer := &Placer{client: client, timeout: options.Timeout, logger: options.Client.Logger}
	if placer.timeout <= 0 {
		placer.timeout = DefaultTimeout
	}
	if placer.logger == nil {
		placer.logger = slog.Default()
	}
	return placer, nil
}

// Close says the releases that are still unsaid; those take a second at most each.
func (p *Placer) Close() error {
	p.ends.Wait()
	return p.client.Close()
}

// Place picks one of the endpoints and books it, in one act; nil stands for any of ELDR's workers. With an
// error nothing is booked, and the choice is the caller's own: the daemon is away
// (eldr.ErrRouterUnavailable), refuses (*eldr.Error), or has its workers elsewhere (ErrElsewhere).
func (p *Placer) Place(ctx context.Context, asked *Prefilled, endpoints []Endpoint) (*Booking, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	offered := make(map[string]Endpoint, len(endpoints))
	for _, endpoint := range endpoints {
		offered[endpoint.Address] = endpoint
	}
	isOffered := func(address string) bool {
		_, found := offered[address]
		return found || endpoints == nil
	}
	request := &eldrpb.RouteRequest{
		Model: asked.Model, RequestId: asked.RequestID, Counts: asked.Counts, NumSequences: asked.Sequences,
	}
	if given := asked.placed; given != nil && given.LeaseID != "" {
		address := AddressOf(given.URL)
		if isOffered(address) {
			return p.taken(asked, address), nil
		}
		// A higher attempt ends that booking.
		request.Attempt, request.ExcludeWorkers = given.Attempt+1, []string{given.WorkerID}
	}
	fixed := request.ExcludeWorkers
	promptTokens := asked.Counts.GetNumTokens() + asked.Counts.GetUnknownTokens()
	var address string
	for range tries {
		if endpoints != nil {
			request.ExcludeWorkers = append(p.known.elsewhere(asked.Model, offered), fixed...)
			request.CachedTokens = p.known.cached(asked.Model, offered, promptTokens)
		}
		held, err := p.client.Place(ctx, request)
		if err != nil {
			return nil, err
		}
		if eldr.IsFallback(held.Placement) {
			return nil, eldr.ErrRouterUnavailable
		}
		p.known.learn(asked.Model, held.Placement)
		address = AddressOf(held.GetUrl())
		if isOffered(address) {
			return p.booked(asked, address, request.Attempt, held), nil
		}
		// It is not waited for: the next attempt ends the booking, too.
		p.ends.Go(func() { held.Release(Cancelled) })
		request.Attempt++
	}
	return nil, fmt.Errorf("%w, the last at %s", ErrElsewhere, address)
}
