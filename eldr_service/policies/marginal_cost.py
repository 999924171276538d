"""`marginal-cost`: the worker where a request makes decode steps least longer, its own and others'.

Rule, over the eligible workers. With worker w's batch a step is predicted to use A distinct experts
a layer, and D more with the request; it holds n sequences, of which R remain to be generated:

    step     = speed x (fixed + expert x (A + D) + sequence x (n + 1))     what the request will pay
    others   = speed x (expert x D + sequence) x R                         what others will, for it
    parting  = expert x 0.3 x top_k x mean n x similarity lost             what later requests will
    choice   = the least step + others + parting among the workers whose step is at most
               (1 + tail) x the mean of all; of equals the one that registered first

`parting` keeps the partition: whoever goes to a worker of another centroid than the most similar
one makes batches more mixed for as long as it stays, the more so the more requests workers hold.
`tail` bounds what this may cost the slowest: at 0 no worker is chosen whose step would be longer
than the fleet's mean, at large values the least sum decides alone.

A and D follow from what each request is predicted to use (`expert_prediction`), kept for each
worker as requests come and go (`batches`); R weighs a request by how much it has yet to generate
(`remaining`); fixed, expert, sequence and speed are learned from reports (`step_cost`).

When a signal is missing:

    no counts, coverage below `min_coverage`  the least loaded eligible worker, and the reason says
                                              which; `pick` is not called
    counts of a request placed all the same   it counts as the mean request
    sequences that ELDR did not place         count in n and R, not in A
    no partition, a worker without a slot     no parting (from that worker)
    no reports with experts and step time     a prior: a step's fixed part is 8 experts
    no decode counts with releases            the prefill's experts, shrunk towards the mean's
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking, Ended
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.worker import LoadReport
from eldr_service.kernels import least_marginal_cost, nearness
from eldr_service.policies.batches import Batches
from eldr_service.policies.expert_prediction import ExpertPrediction
from eldr_service.policies.policy import Policy, SignatureParameters
from eldr_service.policies.remaining import Remaining
from eldr_service.policies.state import PolicyState, inside, pack_texts, unpack_texts, within
from eldr_service.policies.step_cost import LearnedStepCost

PARTING = 0.3


class MarginalCostParameters(SignatureParameters):
    """What `marginal-cost` can be told."""

    tail: float = Field(
        default=0.1,
        ge=0,
        le=10,
        description="how much longer than the fleet's mean the chosen worker's decode step may be,"
        " as a share of it",
    )


@dataclass(slots=True)
class Experts:
    """What is known of experts: all for one geometry.

    `held` has what each living booking added to its worker's batch: 2 bytes an expert of a layer.
    """

    prediction: ExpertPrediction
    batches: Batches
    held: dict[tuple[str, int], NDArray[np.uint16]] = field(default_factory=dict)

    @classmethod
    def of(cls, counts: Counts, top_k: int) -> "Experts":
        """Nothing is known yet."""
        return cls(ExpertPrediction(counts.shape, top_k), Batches(counts.size))

    def state(self) -> PolicyState:
        """All of it, for `restored`."""
        # What bookings hold is never written to: no copies of the most there is.
        held = {str(i): terms for i, terms in enumerate(self.held.values())}
        return {
            "geometry": np.array([*self.prediction.shape, self.prediction.top_k]),
            "requests": pack_texts(request for request, _ in self.held),
            "attempts": np.array([attempt for _, attempt in self.held], np.int64),
            **within("held", held),
            **within("prediction", self.prediction.state()),
            **within("batches", self.batches.state()),
        }

    @classmethod
    def restored(cls, state: PolicyState) -> "Experts":
        """What `state` gave."""
        layers, experts, top_k = state["geometry"].tolist()
        made = cls(ExpertPrediction((layers, experts), top_k), Batches(layers * experts))
        made.prediction.restore(inside(state, "prediction"))
        made.batches.restore(inside(state, "batches"))
        held = inside(state, "held")
        requests = unpack_texts(state["requests"])
        for i, key in enumerate(zip(requests, state["attempts"].tolist(), strict=True)):
            made.held[key] = held[str(i)]
        return made

    def fits(self, counts: Counts, top_k: int) -> bool:
        """It is for the geometry of these counts."""
        return self.prediction.shape == counts.shape and self.prediction.top_k == top_k


class MarginalCost(Policy):
    """The eligible worker where the request costs least, in predicted step time of all."""

    name = "marginal-cost"
    description = (
        "the worker where the request makes decode steps least longer, by predicted experts"
    )
    Parameters = MarginalCostParameters
    parameters: MarginalCostParameters
    needs_counts = True
    keeps_counts = True

    def __init__(self, parameters: MarginalCostParameters | None = None) -> None:
        super().__init__(parameters)
        self.cost = LearnedStepCost()
        self.remaining = Remaining()
        self.experts: Experts | None = None
        self._predicted: tuple[Counts, NDArray[np.float32]] | None = None

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the least costly."""
        counts, top_k, rows = request.counts, request.top_k, fleet.rows
        assert counts is not None  # as needs_counts asks
        experts = self._experts_for(counts, top_k)
        probabilities = experts.prediction.predict(counts)
        self._predicted = counts, probabilities  # which the booking needs again
        if request.num_sequences > 1:  # used by one of them at least
            probabilities = 1 - (1 - probabilities) ** np.float32(request.num_sequences)
        num_rows = int(rows.max()) + 1
        experts.batches.reach(num_rows)
        grown = experts.batches.growth(rows, probabilities) / len(counts)
        active = experts.batches.active(rows) / len(counts) + grown
        if fleet.quantised is not None and request.signature is not None:
            _, mean, codes, scale, _, _ = fleet.quantised
            similar = nearness(mean, codes, scale, request.signature, fleet.slots)
        else:
            similar = np.full(len(rows), np.nan)
        cost = self.cost.coefficients
        worker, allowed = least_marginal_cost(
            fleet.eligible,
            fleet.sequences,
            rows,
            *self.remaining.by_row(num_rows),
            active,
            grown,
            similar,
            self.cost.speeds(fleet.worker_ids),
            cost.fixed,
            cost.expert,
            cost.sequence,
            PARTING * top_k,
            self.parameters.tail,
        )
        return Decision(
            worker,
            similarity=similar,
            in_band=allowed,
            predicted_active_experts=active,
        )

    def on_booked(self, booking: Booking) -> None:
        """Put the request into its worker's batch, and its prefill into the mean."""
        self.remaining.add(booking)
        self._put_in(booking)

    def on_signature_completed(self, booking: Booking) -> None:
        """Predict the request's experts again, from its whole prefill."""
        self._take_out(booking)
        self._put_in(booking)

    def on_ended(self, booking: Booking, ended: Ended) -> None:
        """Take the request out, and learn from what its decode used."""
        self.remaining.remove(booking, finished=ended is Ended.RELEASED)
        if not self._take_out(booking):
            return
        experts, prefill, decode = self.experts, booking.counts, booking.decode_counts
        if (
            experts is not None
            and prefill is not None
            and decode is not None
            and booking.coverage >= self.parameters.min_coverage
            and experts.fits(prefill, booking.top_k)
            and decode.shape == prefill.shape
        ):
            experts.prediction.saw_decode(prefill, decode)

    def _put_in(self, booking: Booking) -> None:
        counts = booking.counts
        if counts is not None and booking.coverage >= self.parameters.min_coverage:
            self.experts = self._experts_for(counts, booking.top_k)
        else:
            counts = None
        if self.experts is not None:
            probabilities = self._prediction_of(counts)
            self.experts.held[booking.key] = self.experts.batches.add(
                booking.row, probabilities, booking.num_sequences
            )
            if counts is not None and not booking.awaits_signature:
                self.experts.prediction.saw_prefill(counts)  # a part would count as a whole
            self._predicted = None

    def _take_out(self, booking: Booking) -> bool:
        experts = self.experts
        if experts is None or booking.key not in experts.held:
            return False
        terms = experts.held.pop(booking.key)
        experts.batches.remove(booking.row, terms, booking.num_sequences)
        self._predicted = None  # it would be another now
        return True

    def _prediction_of(self, counts: Counts | None) -> NDArray[np.float32]:
        """What `pick` has just predicted of them, or anew."""
        assert self.experts is not None
        if counts is not None and self._predicted is not None:
            asked, probabilities = self._predicted
            if np.array_equal(asked, counts):
                return probabilities
        return self.experts.prediction.predict(counts)

    def _experts_for(self, counts: Counts, top_k: int) -> Experts:
        """What is known for the counts' geometry: nothing yet, where it is another than before."""
        if self.experts is None or not self.experts.fits(counts, top_k):
            return Experts.of(counts, top_k)
        return self.experts

    def state(self) -> PolicyState:
        """What was learned, and what each living booking added to its worker's batch."""
        parts = within("cost", self.cost.state()) | within("remaining", self.remaining.state())
        if self.experts is None:
            return parts
        return parts | within("experts", self.experts.state())

    def restore(self, state: PolicyState) -> None:
        """Take over what `state` gave."""
        self.cost.restore(inside(state, "cost"))
        self.remaining.restore(inside(state, "remaining"))
        if experts := inside(state, "experts"):
            self.experts = Experts.restored(experts)

    def on_reported(self, worker_id: str, report: LoadReport) -> None:
        """Learn what a step costs."""
        self.cost.learn(worker_id, report)
