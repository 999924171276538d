use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::times::chance;
use crate::{Placement, PlacementReason, RouteRequest, WorkerTarget};

/// A worker that no placement has named for so long, while others were named, is taken as gone.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A worker to fall back on.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    /// Its id.
    pub id: String,
    /// Where it serves.
    pub url: String,
    /// The data-parallel rank at that url.
    pub dp_rank: u32,
    /// The model that it serves; `None` stands for every model.
    pub model: Option<String>,
}

/// Says that the client chose by itself, as the router did not answer. Nothing is booked.
pub fn is_fallback(placement: &Placement) -> bool {
    placement.reason() == PlacementReason::ClientFallback
}

/// The chosen worker and its alternates, in the order to try them.
pub fn targets(placement: &Placement) -> Vec<WorkerTarget> {
    let chosen = WorkerTarget {
        worker_id: placement.worker_id.clone(),
        url: placement.url.clone(),
        dp_rank: placement.dp_rank,
    };
    [&[chosen], &placement.alternates[..]].concat()
}

/// The workers that are known. They take turns.
pub(crate) struct Pool {
    given: Vec<Worker>,
    learnt: Mutex<Learnt>,
}

struct Learnt {
    models: HashMap<String, Seen>,
    turn: usize,
}

struct Seen {
    answered: Instant,
    workers: HashMap<String, (WorkerTarget, Instant)>,
}

impl Pool {
    pub(crate) fn new(given: Vec<Worker>) -> Self {
        // Many clients do not fall on one worker together.
        let turn = chance() as usize;
        Self { given, learnt: Mutex::new(Learnt { models: HashMap::new(), turn }) }
    }

    pub(crate) fn learn(&self, model: &str, placement: &Placement) {
        let now = Instant::now();
        let mut learnt = self.learnt.lock().unwrap();
        if !learnt.models.contains_key(model) {
            learnt.models.insert(model.to_owned(), Seen { answered: now, workers: HashMap::new() });
        }
        let Some(seen) = learnt.models.get_mut(model) else { return };
        seen.answered = now;
        for target in targets(placement) {
            seen.workers.insert(target.worker_id.clone(), (target, now));
        }
        seen.workers.retain(|_, (_, at)| now.duration_since(*at) < FORGET_AFTER);
    }

    /// The next worker that the request allows. Labels and groups are not known here, so every worker
    /// passes a selector.
    pub(crate) fn place(&self, request: &RouteRequest) -> Option<Placement> {
        let mut learnt = self.learnt.lock().unwrap();
        let mut known = BTreeMap::new();
        for worker in &self.given {
            if worker.model.as_ref().is_none_or(|model| *model == request.model) {
                let (url, dp_rank) = (worker.url.clone(), worker.dp_rank);
                let worker_id = worker.id.clone();
                known.insert(worker.id.clone(), WorkerTarget { worker_id, url, dp_rank });
            }
        }
        if let Some(seen) = learnt.models.get(&request.model) {
            for (id, (target, at)) in &seen.workers {
                if seen.answered.duration_since(*at) < FORGET_AFTER {
                    known.insert(id.clone(), target.clone());
                }
            }
        }
        known.retain(|id, _| allows(request, id));
        let mut allowed: Vec<_> = known.into_values().collect();
        if allowed.is_empty() {
            return None;
        }
        let first = learnt.turn % allowed.len();
        learnt.turn = learnt.turn.wrapping_add(1);
        allowed.rotate_left(first);
        let chosen = allowed.remove(0);
        Some(Placement {
            worker_id: chosen.worker_id,
            url: chosen.url,
            dp_rank: chosen.dp_rank,
            alternates: allowed,
            reason: PlacementReason::ClientFallback.into(),
            ..Placement::default()
        })
    }
}

fn allows(request: &RouteRequest, id: &String) -> bool {
    let candidates = &request.candidate_workers;
    !request.exclude_workers.contains(id)
        && match request.pinned_worker.as_str() {
            "" => candidates.is_empty() || candidates.contains(id),
            pinned => id == pinned,
        }
}
