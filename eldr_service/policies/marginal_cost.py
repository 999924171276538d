"""`marginal-cost`: the worker where a request adds least to decode steps, its own and others'.

Rule, over the eligible workers. With worker w's batch, a step is predicted to use A distinct
experts per layer, and D more with the request. The batch has n sequences, which together have R
lives left to generate, half a life each on average:

    step     = speed x (fixed + expert x (A + D) + sequence x (n + 1))     what the request will pay
    others   = speed x expert x D x R                                      what those held will
    later    = speed x expert x D' x mean n                                what those to come will
    choice   = the least step + others + later among the workers whose step is at most
               (1 + tail) x the mean of all; of equals the one that registered first

While the request runs, about as many requests come to its worker as the worker holds. `later`
assumes that they are like those it holds now: D' is D beside a batch like the worker's, but of the
mean size, so that a fuller worker does not look more similar. It keeps each worker to its kind of
requests; without it, each request is priced beside those that it happens to meet, and kinds mix.
What a sequence adds besides experts is in `step` alone: requests that come later even out loads.

If workers hold part of the prompt's KV from earlier requests, and the cost is in seconds, what that
saves is subtracted from the cost, spread over the tokens that the request is to generate:

    saved    = cached tokens x transfer / output tokens

`transfer` (`token_transfer_us`) is the time to move one token's KV, KV bytes per token / bandwidth;
where a worker without the prefix prefills it itself, it is the time to prefill a token. Output
tokens are those that the call expects, else the mean of requests that ended, else 256.

`tail` bounds what the choice may cost the slowest: at 0 no worker is chosen whose step would be
longer than the fleet's mean; at large values the least sum alone decides.

A and D follow from what each request is predicted to use (`expert_prediction`), kept per worker as
requests come and go (`experts`, `batches`); R weights a request by how much it has yet to generate
(`remaining`); fixed, expert, sequence and speed are learned from reports (`step_cost`).

When a signal is missing:

    no counts, coverage below `min_coverage`  the least loaded eligible worker, and the reason says
                                              which; `pick` is not called
    counts of a request placed all the same   it counts as the mean request
    sequences that ELDR did not place         count in n and R, not in A
    no reports with experts and step time     a prior: a step's fixed part is 8 experts
    no decode counts with releases            the prefill's experts, shrunk towards the mean's
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.ends import Ended
from eldr_service.core.words import counted
from eldr_service.core.worker import LoadReport
from eldr_service.kernels import (
    add_use,
    best_move,
    compile_ahead,
    follow_counts,
    growth,
    learn_decode,
    least_marginal_cost,
    nearness,
    pack_use,
    predict_use,
    remaining_by_row,
    unpack_counts,
)
from eldr_service.policies.experts import Experts, ExpertsInUse
from eldr_service.policies.moves import find_move
from eldr_service.policies.policy import Move, Policy, SignatureParameters
from eldr_service.policies.remaining import Remaining
from eldr_service.policies.state import PolicyState, inside, within
from eldr_service.policies.step_cost import LearnedStepCost
from eldr_service.policies.words import names

OUTPUT_TOKENS = 256
"""Output tokens of a request, until a call or a release states any."""
_NOTHING = np.zeros(0)


class MarginalCostParameters(SignatureParameters):
    """Parameters of `marginal-cost`."""

    tail: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="how much longer than the fleet's mean the chosen worker's decode step may be,"
        " as a share of the mean",
    )
    token_transfer_us: float = Field(
        default=2.0,
        ge=0,
        le=1e6,
        description="microseconds saved per prompt token whose KV a worker already holds, by"
        " `cached_tokens` or `prefix_hashes` of the call: KV bytes per token / bandwidth",
    )
    moves: bool = Field(
        default=False,
        description="whether to propose running requests that should move to another worker",
    )
    move_seconds: float = Field(
        default=0.005,
        gt=0,
        le=60,
        description="what a move costs its request; a move is proposed if it saves five times"
        " that, over all requests, or more where workers hold fewer than 8",
    )


class MarginalCost(Policy):
    """Picks the eligible worker where the request adds least to the predicted step time of all."""

    name = "marginal-cost"
    description = (
        "the worker where the request adds least to decode step times, by predicted experts"
    )
    Parameters = MarginalCostParameters
    parameters: MarginalCostParameters
    needs_counts = True
    keeps_counts = True

    def __init__(self, parameters: MarginalCostParameters | None = None) -> None:
        super().__init__(parameters)
        self.cost = LearnedStepCost()
        self.remaining = Remaining()
        self.experts = ExpertsInUse(self.parameters.min_coverage)

    def prepare(self) -> None:
        """Compile all that decisions and hooks run."""
        compile_ahead(least_marginal_cost, nearness, remaining_by_row)
        compile_ahead(predict_use, follow_counts, learn_decode)
        compile_ahead(add_use, growth, pack_use, unpack_counts)
        if self.parameters.moves:
            compile_ahead(best_move)

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the cheapest worker."""
        counts, top_k, rows = request.counts, request.top_k, fleet.rows
        assert counts is not None  # because of needs_counts
        experts, probabilities = self.experts.predict(counts, top_k)
        if request.num_sequences > 1:  # used by at least one of them
            probabilities = 1 - (1 - probabilities) ** np.float32(request.num_sequences)
        active = experts.active(rows)
        grown = experts.batches.growth(rows, probabilities) / len(counts)
        active += grown
        grown_at_mean = experts.batches.growth_at_mean(rows, probabilities) / len(counts)
        # For the explanation, not the choice.
        if fleet.quantised is not None and request.signature is not None:
            _, mean, codes, scale, _, _ = fleet.quantised
            similar = nearness(mean, codes, scale, request.signature, fleet.slots)
        else:
            similar = np.full(len(rows), np.nan)
        cost = self.cost.coefficients
        saved = self._saved(request, fleet)
        worker, allowed, step, costs = least_marginal_cost(
            fleet.eligible,
            fleet.sequences,
            rows,
            *self.remaining.by_row(int(rows.max()) + 1),
            active,
            grown,
            grown_at_mean,
            self.cost.speeds(fleet.worker_ids),
            saved,
            cost.fixed,
            cost.expert,
            cost.sequence,
            self.parameters.tail,
        )
        return Decision(
            worker,
            similarity=similar,
            in_band=allowed,
            predicted_active_experts=active,
            cost=costs,
            grounds=(step, self.cost.learned, float(saved[worker]) if len(saved) else 0.0),
        )

    def _saved(self, request: RequestView, fleet: FleetSnapshot) -> NDArray[np.float64]:
        """Seconds per generated token that each worker saves the request; empty if none does."""
        seconds = 1e-6 * self.parameters.token_transfer_us
        if fleet.cached_tokens is None or not (seconds and self.cost.learned):
            return _NOTHING
        output = request.expected_output_tokens or self.remaining.mean_tokens or OUTPUT_TOKENS
        return np.asarray(fleet.cached_tokens * (seconds / output))

    def move(self, candidates: Sequence[Booking], fleet: FleetSnapshot) -> Move | None:
        """Choose by the rule of `moves`."""
        if not self.parameters.moves or self.experts.known is None:
            return None
        return find_move(
            candidates,
            fleet,
            self.experts.known,
            self.remaining,
            self.cost,
            tail=self.parameters.tail,
            move_seconds=self.parameters.move_seconds,
        )

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say which steps were too long, and what the choice was predicted to cost."""
        step, learned, saved = decision.grounds
        costs, allowed, chosen = decision.cost, decision.in_band, decision.worker
        assert costs is not None
        assert allowed is not None  # `pick` sets them
        mean = _written(step[fleet.eligible].mean(), learned)
        less = ""
        if saved:
            assert fleet.cached_tokens is not None  # or nothing was saved
            held = counted(int(fleet.cached_tokens[chosen]), "prompt token")
            less = f", less {_written(saved, learned)} for {held} it already holds"
        return (
            f"predicted decode step within 1 + tail {self.parameters.tail:g} times the mean of"
            f" {mean}: {names(fleet, allowed)}; least cost of them: {fleet.worker_ids[chosen]} at"
            f" {_written(costs[chosen], learned)} (its step {_written(step[chosen], learned)}, the"
            f" rest what it adds for others{less})"
        )

    def on_booked(self, booking: Booking) -> None:
        """Add the request to its worker's batch, and its prefill to the mean."""
        self.remaining.add(booking)
        self.experts.put_in(booking)

    def on_signature_completed(self, booking: Booking) -> None:
        """Predict the request's experts again, from its complete prefill."""
        self.experts.put_in_again(booking)

    def on_ended(self, booking: Booking, ended: Ended) -> None:
        """Remove the request, and learn from what its decode used."""
        self.remaining.remove(
            booking,
            finished=ended is Ended.RELEASED,
            superseded=ended is Ended.SUPERSEDED,
        )
        self.experts.take_out(booking)

    def state(self) -> PolicyState:
        """What was learned, and what each living booking added to its worker's batch."""
        parts = within("cost", self.cost.state()) | within("remaining", self.remaining.state())
        if self.experts.known is None:
            return parts
        return parts | within("experts", self.experts.known.state())

    def restore(self, state: PolicyState) -> None:
        """Restore what `state` returned."""
        self.cost.restore(inside(state, "cost"))
        self.remaining.restore(inside(state, "remaining"))
        if experts := inside(state, "experts"):
            self.experts.known = Experts.restored(experts)

    def learned(self) -> PolicyState:
        """Step costs, lives of requests, and how decodes differ from prefills."""
        parts = within("cost", self.cost.state()) | {"remaining": self.remaining.means}
        if self.experts.known is None:
            return parts
        return parts | within("experts", self.experts.known.learned())

    def relearn(self, learned: PolicyState) -> None:
        """Restore what `learned` returned."""
        self.cost.restore(inside(learned, "cost"))
        self.remaining.means = learned["remaining"]
        if experts := inside(learned, "experts"):
            self.experts.known = Experts.relearned(experts)

    def on_reported(self, worker_id: str, report: LoadReport) -> None:
        """Learn what a step costs."""
        self.cost.learn(worker_id, report)


def _written(cost: float, learned: bool) -> str:
    """A cost in milliseconds, or before any report in expert reads by every layer."""
    return f"{1e3 * cost:.3g} ms" if learned else f"{cost:.3g} expert reads"
