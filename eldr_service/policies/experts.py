"""What workers' batches are predicted to use of experts, by the bookings that they hold."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.policies.batches import Batches
from eldr_service.policies.expert_prediction import ExpertPrediction
from eldr_service.policies.packed_use import PackedUse
from eldr_service.policies.state import PolicyState, inside, pack_texts, unpack_texts, within

LEARNING_BYTES = 8 << 20
"""Of prefills of living bookings, kept as they came; what finishes beside them teaches nothing."""


@dataclass(slots=True)
class Experts:
    """What is known of experts: all for one geometry.

    `held` has what each living booking added to its worker's batch: 3 bits per expert of a layer.
    `learning` counts those whose prefill is kept as it came, to learn from when they end.
    """

    prediction: ExpertPrediction
    batches: Batches
    held: dict[tuple[str, int], PackedUse] = field(default_factory=dict)
    learning: int = 0

    @classmethod
    def of(cls, counts: Counts, top_k: int) -> "Experts":
        """Nothing is known yet."""
        return cls(ExpertPrediction(counts.shape, top_k), Batches(counts.size))

    def state(self) -> PolicyState:
        """All of it, for `restored`."""
        # What bookings hold is never written to: no copies of the most there is.
        held = {str(i): use.data for i, use in enumerate(self.held.values())}
        return {
            **self.learned(),
            "requests": pack_texts(request for request, _ in self.held),
            "attempts": np.array([attempt for _, attempt in self.held], np.int64),
            "learns": np.array([use.learns for use in self.held.values()], np.bool_),
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
        keys, shape = zip(requests, state["attempts"].tolist(), strict=True), made.prediction.shape
        for i, (key, learns) in enumerate(zip(keys, state["learns"].tolist(), strict=True)):
            made.held[key] = PackedUse(held[str(i)], shape, learns)
            made.learning += learns
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

    def used_by(self, booking: Booking) -> PackedUse | None:
        """What a living booking is predicted to use; None where nothing is."""
        return self.known.held.get(booking.key) if self.known else None

    def put_in(self, booking: Booking) -> None:
        """Put a request into its worker's batch, and its prefill into the mean."""
        counts = booking.counts
        if counts is not None and booking.coverage >= self._min_coverage:
            self.known = self._known_for(counts, booking.top_k)
        else:
            counts = None
        if self.known is not None:
            self._hold(booking, self._prediction_of(counts), learns=counts is not None)
            if counts is not None and not booking.awaits_signature:
                self.known.prediction.saw_prefill(counts)  # a part would count as a whole
            self._predicted = None

    def _hold(self, booking: Booking, probabilities: NDArray[np.float32], learns: bool) -> None:
        """Add the request to its worker's batch, and keep no more of it than is needed."""
        experts, counts = self.known, booking.counts
        assert experts is not None
        if counts is not None and not experts.fits(counts, booking.top_k):
            counts = None
        use = PackedUse.of(probabilities, counts, experts.prediction.shape)
        experts.batches.add(booking.row, use, booking.num_sequences)
        experts.held[booking.key] = use
        if counts is not None:
            use.learns = learns and experts.learning * counts.nbytes < LEARNING_BYTES
            experts.learning += use.learns
            if not use.learns:
                booking.kept = use

    def put_in_again(self, booking: Booking) -> None:
        """Predict a request's experts again, from its whole prefill."""
        self._take_out(booking)
        self.put_in(booking)

    def take_out(self, booking: Booking) -> None:
        """Take a request out of its worker's batch, and learn from what its decode used."""
        use = self._take_out(booking)
        experts, decode = self.known, booking.decode_counts
        if not (use and use.learns and experts and decode is not None):
            return
        prefill = booking.counts
        if (
            prefill is not None
            and booking.coverage >= self._min_coverage
            and experts.fits(prefill, booking.top_k)
            and decode.shape == prefill.shape
        ):
            experts.prediction.saw_decode(prefill, decode)

    def _take_out(self, booking: Booking) -> PackedUse | None:
        experts = self.known
        use = experts.held.pop(booking.key, None) if experts else None
        if experts and use:
            experts.batches.add(booking.row, use, -booking.num_sequences)
            experts.learning -= use.learns
            self._predicted = None  # it would be another now
        return use

    def _prediction_of(self, counts: Counts | None) -> NDArray[np.float32]:
        """What `predict` has just said of them, else a new prediction."""
        assert self.known is not None
        if counts is not None and self._predicted is not None:
            asked, probabilities = self._predicted
            if asked.shape == counts.shape and asked.tobytes() == counts.tobytes():
                return probabilities
        return self.known.prediction.predict(counts)

    def _known_for(self, counts: Counts, top_k: int) -> Experts:
        """What is known for the counts' geometry: nothing yet, where it is another than before."""
        if self.known is None or not self.known.fits(counts, top_k):
            return Experts.of(counts, top_k)
        return self.known
