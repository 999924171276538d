"""Which running request should move to another worker, by the predicted step time of all.

For each candidate with l tokens yet to generate (`remaining`) on worker a with n_a sequences, and
each eligible worker b, with steps as `marginal_cost` predicts them and ' for after the move:

    saved  = l x (1/2 x (step_a x n_a + step_b x n_b - step_a' x (n_a - 1) - step_b' x (n_b + 1))
                  + later_a - later_b)
    later  = speed x expert x D x mean n       what those to come will pay, as for a placement
    choice = the most saved among the moves with step_b' at most (1 + tail) x the mean step,
             if min(1, mean n / `FULL`) of it is at least `MARGIN` times what a move costs

The factor 1/2 is there because, while the request lives, those beside it end and others come;
without it requests would move for neighbours that are soon gone. A saving counts less where workers
hold few: there a move looks good mostly for how many each holds, which the next arrivals even out
for free. D is what the request adds beside a batch like the worker's others, but of the mean size.
Nothing is proposed until steps are learned in seconds, and until a request has ended that stated
its number of tokens. Requests of several sequences stay.
"""

from collections.abc import Sequence

import numpy as np

from eldr_service.core.booking import Booking
from eldr_service.core.decision import FleetSnapshot
from eldr_service.kernels import best_move
from eldr_service.policies.experts import Experts
from eldr_service.policies.policy import Move
from eldr_service.policies.remaining import Remaining
from eldr_service.policies.step_cost import LearnedStepCost

MARGIN = 5.0
"""Predictions err, and the best of many is likely one that errs much."""
FULL = 8.0
"""Mean sequences per worker from which on a saving counts in full."""


def find_move(
    candidates: Sequence[Booking],
    fleet: FleetSnapshot,
    experts: Experts,
    remaining: Remaining,
    cost: LearnedStepCost,
    *,
    tail: float,
    move_seconds: float,
) -> Move | None:
    """Choose by the rule of this module; None if every request should stay."""
    place = {row: i for i, row in enumerate(fleet.rows.tolist())}
    single = [
        b for b in candidates if b.num_sequences == 1 and b.key in experts.held and b.row in place
    ]
    if not (single and cost.learned and remaining.knows_tokens):
        return None
    by = cost.coefficients
    best, worker, saved = best_move(
        np.stack([experts.held[b.key].data for b in single]),
        np.array([place[b.row] for b in single]),
        remaining.tokens_left(single),
        fleet.eligible,
        fleet.sequences,
        fleet.rows,
        *experts.batches.rows(int(fleet.rows.max()) + 1),
        experts.active(fleet.rows),
        cost.speeds(fleet.worker_ids),
        by.fixed,
        by.expert,
        by.sequence,
        tail,
        experts.prediction.shape[0],
    )
    if best < 0:
        return None
    counted = saved * min(1.0, float(fleet.sequences[fleet.eligible].mean()) / FULL)
    if counted < MARGIN * move_seconds:
        return None
    return Move(single[best], worker, saved - move_seconds)
