"""What workers' batches are predicted to use of experts, by the bookings that they hold."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.policies.batches import Batches
from eldr_service.policies.expert_prediction import ExpertPrediction
from eldr_service.policies.state import PolicyState, inside, pack_texts, unpack_texts, within


@dataclass(slots=True)
class Experts:
    """What is known of experts: all for one geometry.

    `held` has what each living booking added to its worker's batch: 2 bytes per expert of a layer.
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
            **self.learned(),
            "requests": pack_texts(request for request, _ in self.held),
            "attempts": np.array([attempt for _, attempt in self.held], np.int64),
            **within("held", held),
            **within("batches", self.batches.state()),
        }

    def learned(self) -> PolicyState:
        """What outlives the bookings, for `relearned`."""
        geometry = np.array([*self.prediction.shape, self.prediction.top_k])
        return {"geometry": geometry, **within("prediction", self.prediction.state())}

    @classmethod
    def restored(cls, state: PolicyState) -> "Experts":
        """What `state` gave."""
        made = cls.relearned(state)
        made.batches.restore(inside(state, "batches"))
        held = inside(state, "held")
        requests = unpack_texts(state["requests"])
        for i, key in enumerate(zip(requests, state["attempts"].tolist(), strict=True)):
            made.held[key] = held[str(i)]
        return made

    @classmethod
    def relearned(cls, learned: PolicyState) -> "Experts":
        """What `learned` gave, without bookings."""
        layers, experts, top_k = learned["geometry"].tolist()
        made = cls(ExpertPrediction((layers, experts), top_k), Batches(layers * experts))
        made.prediction.restore(inside(learned, "prediction"))
        return made

    def fits(self, counts: Counts, top_k: int) -> bool:
        """It is for the geometry of these counts."""
        return self.prediction.shape == counts.shape and self.prediction.top_k == top_k

    def active(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distinct experts per layer of a step of each row's batch."""
        self.batches.reach(int(rows.max(initial=-1)) + 1)
        return self.batches.active(rows) / self.prediction.shape[0]


class ExpertsInUse:
    """Follows the bookings of a model; starts over when counts come in another geometry.

    Parameters
    ----------
    min_coverage : float
        A booking whose counts cover less of its prompt, or that has none, is the mean request.

    Attributes
    ----------
    known : Experts or None
        None before any counts.
    """

    def __init__(self, min_coverage: float) -> None:
        self.known: Experts | None = None
        self._min_coverage = min_coverage
        self._predicted: tuple[Counts, NDArray[np.float32]] | None = None

    def predict(self, counts: Counts, top_k: int) -> tuple[Experts, NDArray[np.float32]]:
        """What a request with these counts would use, and beside what; takes nothing in."""
        experts = self._known_for(counts, top_k)
        probabilities = experts.prediction.predict(counts)
        self._predicted = counts, probabilities  # which the booking needs again
        return experts, probabilities

    def put_in(self, booking: Booking) -> None:
        """Put a request into its worker's batch, and its prefill into the mean."""
        counts = booking.counts
        if counts is not None and booking.coverage >= self._min_coverage:
            self.known = self._known_for(counts, booking.top_k)
        else:
            counts = None
        if self.known is not None:
            probabilities = self._prediction_of(counts)
            self.known.held[booking.key] = self.known.batches.add(
                booking.row, probabilities, booking.num_sequences
            )
            if counts is not None and not booking.awaits_signature:
                self.known.prediction.saw_prefill(counts)  # a part would count as a whole
            self._predicted = None

    def put_in_again(self, booking: Booking) -> None:
        """Predict a request's experts again, from its whole prefill."""
        self._take_out(booking)
        self.put_in(booking)

    def take_out(self, booking: Booking) -> None:
        """Take a request out of its worker's batch, and learn from what its decode used."""
        if not self._take_out(booking):
            return
        experts, prefill, decode = self.known, booking.counts, booking.decode_counts
        if (
            experts is not None
            and prefill is not None
            and decode is not None
            and booking.coverage >= self._min_coverage
            and experts.fits(prefill, booking.top_k)
            and decode.shape == prefill.shape
        ):
            experts.prediction.saw_decode(prefill, decode)

    def _take_out(self, booking: Booking) -> bool:
        experts = self.known
        if experts is None or booking.key not in experts.held:
            return False
        terms = experts.held.pop(booking.key)
        experts.batches.remove(booking.row, terms, booking.num_sequences)
        self._predicted = None  # it would be another now
        return True

    def _prediction_of(self, counts: Counts | None) -> NDArray[np.float32]:
        """What `predict` has just said of them, else a new prediction."""
        assert self.known is not None
        if counts is not None and self._predicted is not None:
            asked, probabilities = self._predicted
            if np.array_equal(asked, counts):
                return probabilities
        return self.known.prediction.predict(counts)

    def _known_for(self, counts: Counts, top_k: int) -> Experts:
        """What is known for the counts' geometry: nothing yet, where it is another than before."""
        if self.known is None or not self.known.fits(counts, top_k):
            return Experts.of(counts, top_k)
        return self.known
