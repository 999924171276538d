package eldr

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"eldr.internal/client/eldrpb"
)

// A worker that no placement has named for so long, while others were named, is taken as gone.
const forgetAfter = 10 * time.Minute

// Worker is one to fall back on.
type Worker struct {
	ID, URL string
	DPRank  uint32
	// Model that it serves; empty stands for every model.
	Model string
}

type seenWorker struct {
	target *eldrpb.WorkerTarget
	at     time.Time
}

// pool has the workers that are known, and takes turns among them.
type pool struct {
	mu       sync.Mutex
	given    []Worker
	seen     map[string]map[string]seenWorker
	answered map[string]time.Time
	turn     uint32
}

func newPool(given []Worker) *pool {
	return &pool{
		given:    given,
		seen:     map[string]map[string]seenWorker{},
		answered: map[string]time.Time{},
		turn:     rand.Uint32N(1 << 16), // many clients do not fall on one worker together
	}
}

// Targets are the chosen worker and its alternates, in the order to try them.
func Targets(placement *eldrpb.Placement) []*eldrpb.WorkerTarget {
	chosen := &eldrpb.WorkerTarget{
		WorkerId: placement.GetWorkerId(), Url: placement.GetUrl(), DpRank: placement.GetDpRank(),
	}
	return append([]*eldrpb.WorkerTarget{chosen}, placement.GetAlternates()...)
}

func (p *pool) learn(model string, placement *eldrpb.Placement) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered[model] = now
	if p.seen[model] == nil {
		p.seen[model] = map[string]seenWorker{}
	}
	for _, target := range Targets(placement) {
		p.seen[model][target.GetWorkerId()] = seenWorker{target, now}
	}
}

// place is the next worker that the request allows; nil where none is known. Labels and groups are not
// known here, so every worker passes a selector.
func (p *pool) place(request *eldrpb.RouteRequest) *eldrpb.Placement {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := map[string]*eldrpb.WorkerTarget{}
	for _, worker := range p.given {
		if worker.Model == "" || worker.Model == request.GetModel() {
			known[worker.ID] = &eldrpb.WorkerTarget{
				WorkerId: worker.ID, Url: worker.URL, DpRank: worker.DPRank,
			}
		}
	}
	oldest := p.answered[request.GetModel()].Add(-forgetAfter)
	for id, worker := range p.seen[request.GetModel()] {
		if !worker.at.Before(oldest) {
			known[id] = worker.target
		}
	}
	var allowed []*eldrpb.WorkerTarget
	for id, target := range known {
		if allows(request, id) {
			allowed = append(allowed, target)
		}
	}
	if len(allowed) == 0 {
		return nil
	}
	slices.SortFunc(allowed, func(a, b *eldrpb.WorkerTarget) int {
		return strings.Compare(a.GetWorkerId(), b.GetWorkerId())
	})
	first := int(p.turn) % len(allowed)
	p.turn++
	allowed = append(allowed[first:], allowed[:first]...)
	return &eldrpb.Placement{
		WorkerId:   allowed[0].GetWorkerId(),
		Url:        allowed[0].GetUrl(),
		DpRank:     allowed[0].GetDpRank(),
		Alternates: allowed[1:],
		Reason:     eldrpb.PlacementReason_PLACEMENT_REASON_CLIENT_FALLBACK,
	}
}

func allows(request *eldrpb.RouteRequest, id string) bool {
	if slices.Contains(request.GetExcludeWorkers(), id) {
		return false
	}
	if pinned := request.GetPinnedWorker(); pinned != "" {
		return id == pinned
	}
	candidates := request.GetCandidateWorkers()
	return len(candidates) == 0 || slices.Contains(candidates, id)
}
