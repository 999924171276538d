"""A lower estimate of what placements alone could reach, with the whole future known.

A run tells when each decode started and ended. With these times fixed, requests are placed again,
each on one worker for its whole decode, to lower the sum of ``n x step`` over workers and time, by
the experts that they actually use. The search is simulated annealing: at first a worse worker may
be drawn, later only the best is taken. The plan is then simulated, which gives new times to plan
with; the best run counts. The best possible placements are at least as good. No router knows
future requests, or which experts a decode will use.
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.policies.bound import step_of, unused_shares
from benchmarks.policies.known_use import counts_key
from eldr_service.core.booking import Booking
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.kernels.compiling import kept
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.result import Result
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.workload import Workload
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create

ROUNDS = 2
SWEEPS = 24  # the last quarter without randomness
MOMENTS = 32  # time slots per mean decode


class Planned(Policy):
    """Places by plan: each occurrence of a recording on the worker planned for it.

    Which request gets which recording depends slightly on when others end, so a plan by request
    would be invalidated by its own effects.
    """

    name = "planned"
    description = "as planned"
    needs_counts = True
    keeps_counts = True

    def __init__(self, workload: Workload, run: Result, workers: NDArray[np.int64]) -> None:
        super().__init__()
        by_recording: dict[int, list[int]] = {}
        for i in np.argsort(run.placed_s, kind="stable"):
            by_recording.setdefault(int(run.recording[i]), []).append(int(workers[i]))
        self._planned = {
            counts_key(workload.prefill_counts(i).counts): by_recording.get(int(recording), [])
            for i, recording in enumerate(workload.driven)
        }

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the planned worker; the least loaded if it is full, or nothing is planned."""
        assert request.counts is not None
        planned = self._planned[counts_key(request.counts)]
        if planned and fleet.eligible[planned[0]]:
            return Decision(planned[0])
        return Decision(fleet.least_loaded())

    def on_booked(self, booking: Booking) -> None:
        """Advance to the recording's next occurrence."""
        assert booking.counts is not None
        del self._planned[counts_key(booking.counts)][:1]


def placed_in_hindsight(
    workload: Workload, deployment: Deployment, output_tokens: int | None
) -> Result:
    """The best run found; all engines of the deployment must be alike."""
    unused = unused_shares(workload, output_tokens)
    step = step_of(deployment.engines[0].cost, workload.recording.geometry)
    number = np.full(workload.recording.num_requests, -1)
    number[workload.driven] = np.arange(len(workload.driven))
    best = last = simulate(workload, create("marginal-cost", {}), deployment)
    for chance in range(ROUNDS):
        moment = float((last.end_s - last.placed_s).mean()) / MOMENTS
        begins = (last.placed_s / moment).astype(np.int64)
        ends = np.maximum((last.end_s / moment).astype(np.int64), begins + 1)
        workers = last.worker.copy()
        of_request = np.ascontiguousarray(unused[number[last.recording]])
        place_anew(workers, begins, ends, of_request, deployment.workers, *step, chance)
        last = simulate(workload, Planned(workload, last, workers), deployment)
        best = min(best, last, key=lambda run: float(run.tpot_s.mean()))
    return best


@kept
def place_anew(
    at: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    spared: NDArray[np.float64],
    workers: int,
    whole: float,
    expert: float,
    sequence: float,
    seed: int,
) -> None:
    """Lower the sum of ``n x step`` over workers and moments. In place.

    at [n] is each request's worker, from moment begins [n] to the one before ends [n]; spared
    [n, size] its probabilities of not using an expert. A step of m requests takes
    ``whole - expert x sum(products of these) + sequence x m``.
    """
    n, size = spared.shape
    moments = ends.max()
    np.random.seed(seed)
    products = np.ones((moments, workers, size))
    held = np.zeros((moments, workers), np.int64)
    total = np.empty((moments, workers))
    change = np.empty(workers)
    heat = 0.0
    for sweep in range(SWEEPS):
        if sweep % 8 == 0:  # recompute: repeated multiplication and division drift
            products[:] = 1.0
            held[:] = 0
            for i in range(n):
                for t in range(begins[i], ends[i]):
                    products[t, at[i]] *= spared[i]
                    held[t, at[i]] += 1
            for t in range(moments):
                for w in range(workers):
                    total[t, w] = products[t, w].sum()
        differing = 0.0
        for i in np.random.permutation(n):
            a = at[i]
            change[:] = 0.0
            for t in range(begins[i], ends[i]):
                h = held[t, a]
                left = (products[t, a] / spared[i]).sum()
                here = (h - 1) * (whole - expert * left + sequence * (h - 1))
                here -= h * (whole - expert * total[t, a] + sequence * h)
                for w in range(workers):
                    if w != a:
                        h = held[t, w]
                        more = np.dot(products[t, w], spared[i])
                        there = (h + 1) * (whole - expert * more + sequence * (h + 1))
                        there -= h * (whole - expert * total[t, w] + sequence * h)
                        change[w] += here + there
            differing += change.std()
            to = _chosen(change, heat)
            if to == a:
                continue
            for t in range(begins[i], ends[i]):
                products[t, a] /= spared[i]
                products[t, to] *= spared[i]
                held[t, a] -= 1
                held[t, to] += 1
                total[t, a] = products[t, a].sum()
                total[t, to] = products[t, to].sum()
            at[i] = to
        warm = 1 - (sweep + 1) / (0.75 * SWEEPS)
        heat = 0.3 * warm * differing / n if warm > 0 else 0.0


@kept
def _chosen(change: NDArray[np.float64], heat: float) -> int:
    """A worker drawn with more probability for a lower change; without heat the lowest."""
    least = change.argmin()
    if heat <= 0:
        return least
    weights = np.exp((change[least] - change) / heat)
    drawn = np.random.random() * weights.sum()
    for w in range(len(weights)):
        drawn -= weights[w]
        if drawn < 0:
            return w
    return least
