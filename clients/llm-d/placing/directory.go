package placing

import (
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

// elsewhere are the known workers that are at none of the addresses.
func (d *directory) elsewhere(model string, addresses map[string]bool) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []string
	for id, worker := range d.workers[model] {
		switch {
		case time.Since(worker.at) > forgetAfter:
			delete(d.workers[model], id)
		case !addresses[worker.address]:
			found = append(found, id)
		}
	}
	return found
}
