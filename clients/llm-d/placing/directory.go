package placing

import (
	"maps"
	"math"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	eldr "eldr.internal/client"
	"eldr.internal/client/eldrpb"
)

// A worker that no placement has named for so long is forgotten: its address may be another's by now.
const forgetAfter = 10 * time.Minute

// AddressOf is the HOST:PORT of a worker's URL; empty where it is none.
func AddressOf(workerURL string) string {
	parsed, err := url.Parse(workerURL)
	if err != nil || parsed.Hostname() == "" {
		return ""
	}
	port := parsed.Port()
	if port == "" {
		port = map[string]string{"https": "443"}[parsed.Scheme]
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(strings.ToLower(parsed.Hostname()), port)
}

type seen struct {
	address string
	at      time.Time
}

// directory learns from placements at which addresses ELDR's workers are.
type directory struct {
	mu      sync.Mutex
	workers map[string]map[string]seen // by model and worker id
}

func (d *directory) learn(model string, placement *eldrpb.Placement) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.workers == nil {
		d.workers = map[string]map[string]seen{}
	}
	if d.workers[model] == nil {
		d.workers[model] = map[string]seen{}
	}
	for _, target := range eldr.Targets(placement) {
		d.workers[model][target.GetWorkerId()] = seen{AddressOf(target.GetUrl()), now}
	}
}

// current are the model's workers that are not forgotten. The caller holds mu.
func (d *directory) current(model string) map[string]seen {
	maps.DeleteFunc(d.workers[model], func(_ string, worker seen) bool {
		return time.Since(worker.at) > forgetAfter
	})
	return d.workers[model]
}

// elsewhere are the known workers that are at none of the endpoints.
func (d *directory) elsewhere(model string, endpoints map[string]Endpoint) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []string
	for id, worker := range d.current(model) {
		if _, offered := endpoints[worker.address]; !offered {
			found = append(found, id)
		}
	}
	return found
}

// cached is how many of the prompt's tokens each known worker holds, as its endpoint is said to. Workers that
// share an endpoint are left out: which of them holds the prompt is not said.
func (d *directory) cached(model string, endpoints map[string]Endpoint, promptTokens uint32) map[string]uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	workers := d.current(model)
	sharing := map[string]int{}
	for _, worker := range workers {
		sharing[worker.address]++
	}
	found := map[string]uint32{}
	for id, worker := range workers {
		tokens := uint32(math.Round(endpoints[worker.address].Cached * float64(promptTokens)))
		if tokens > 0 && sharing[worker.address] == 1 {
			found[id] = tokens
		}
	}
	return found
}
